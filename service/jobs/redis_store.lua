-- The methods of `RedisStore`. Redis runs a script as a whole, so each call happens as a whole or not at all.
-- KEYS[1]: prefix of all keys. ARGV: method, seconds since 1970 ("" takes the server's clock), bounds in JSON, arguments.
--
-- version              of this layout
-- number               of the newest job
-- job:ID               hash, a record
-- request:ID           the work of an unfinished job
-- events:ID            hash, "NUMBER FIELDS" by the name of an event
-- content:ID-TOKEN     what was written under a claim
-- queued, in_progress  sorted sets of ids by number
-- finished             sorted set of ids by time
-- owner:OWNER          sorted set of ids by number
-- keys                 hash, id by owner and key
-- workers              hash, id by the worker that holds it

local VERSION = '1'
local prefix, now, bounds = KEYS[1], tonumber(ARGV[2]), cjson.decode(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end

local function call(command, name, ...)
  return redis.call(command, prefix .. name, ...)
end

local function seconds(value) return string.format('%.6f', value) end
local function flat(id) return call('HGETALL', 'job:' .. id) end

local function record(id)
  local fields, job = flat(id), {}
  for place = 1, #fields, 2 do
    job[fields[place]] = fields[place + 1]
  end
  return job.id and job or nil
end

local function owned(owner, id)
  local job = record(id)
  return job and job.owner == owner and job or nil
end

local function held(id, token)
  local job = record(id)
  return job and job.status == 'in_progress' and job.token == token and job or nil
end

local function content(job) return job.content or (job.id .. '-' .. job.token) end
local function submission(job) return job.owner .. '\0' .. job.key end -- an owner holds no NUL

-- Add an event in the place of the last one of its name, which bounds their number.
local function event(id, name, fields)
  local number = call('HINCRBY', 'job:' .. id, 'last_event', 1)
  call('HSET', 'events:' .. id, name, number .. ' ' .. fields)
end

local function move(job, status, score)
  if job.worker then
    call('HDEL', 'workers', job.worker)
    call('HDEL', 'job:' .. job.id, 'worker')
  end
  for _, name in ipairs({'queued', 'in_progress', 'finished'}) do
    call('ZREM', name, job.id)
  end
  call('ZADD', (status == 'queued' or status == 'in_progress') and status or 'finished', score, job.id)
  call('HSET', 'job:' .. job.id, 'status', status)
end

-- Finish a job; the work goes.
local function finish(job, status, fields)
  move(job, status, seconds(now))
  call('HSET', 'job:' .. job.id, 'finished', seconds(now), 'bytes', 0)
  if status == 'failed' then
    call('HSET', 'job:' .. job.id, 'error', fields)
  end
  call('DEL', 'request:' .. job.id)
  event(job.id, status, fields)
end

-- Finish a job without content; what was written of it goes too.
local function give_up(job, status, fields)
  call('DEL', 'content:' .. content(job))
  finish(job, status, fields)
end

local function requeue(job, runnable_at, losses)
  call('DEL', 'content:' .. content(job))
  move(job, 'queued', job.number)
  call('HINCRBY', 'job:' .. job.id, 'losses', losses)
  call('HSET', 'job:' .. job.id, 'done', 0, 'runnable_at', seconds(runnable_at))
  event(job.id, 'queued', '{}')
end

-- Queue the jobs of lost workers anew, and give up what was tried or has waited for too long.
local function take_back()
  for _, id in ipairs(call('ZRANGE', 'in_progress', 0, -1)) do
    local job = record(id)
    if tonumber(job.lease_until) < now then
      if job.losses + 1 >= bounds.tries then
        give_up(job, 'failed', bounds.lost)
      else
        requeue(job, now, 1)
      end
    end
  end
  for _, id in ipairs(call('ZRANGE', 'queued', 0, -1)) do
    if tonumber(call('HGET', 'job:' .. id, 'created')) >= now - bounds.finished_seconds then
      break -- they are in order
    end
    give_up(record(id), 'failed', bounds.too_late)
  end
end

local function remove(job)
  for _, name in ipairs({'job:' .. job.id, 'request:' .. job.id, 'events:' .. job.id, 'content:' .. content(job)}) do
    call('DEL', name)
  end
  for _, name in ipairs({'queued', 'in_progress', 'finished', 'owner:' .. job.owner}) do
    call('ZREM', name, job.id)
  end
  if job.key then
    call('HDEL', 'keys', submission(job))
  end
  if job.worker then
    call('HDEL', 'workers', job.worker)
  end
end

local function unfinished()
  local ids = call('ZRANGE', 'queued', 0, -1)
  for _, id in ipairs(call('ZRANGE', 'in_progress', 0, -1)) do
    ids[#ids + 1] = id
  end
  return ids
end

-- Remove finished jobs that are too old, and the oldest of whoever has most until so much more fits.
-- Returns the bytes of all jobs that stay.
local function evict(jobs, bytes)
  for _, id in ipairs(call('ZRANGEBYSCORE', 'finished', '-inf', '(' .. seconds(now - bounds.finished_seconds))) do
    remove(record(id))
  end
  local finished, of_owner, total = {}, {}, {one = 0, bytes = 0}
  local function count(id)
    local found = call('HMGET', 'job:' .. id, 'owner', 'bytes', 'number')
    local job = {id = id, owner = found[1], bytes = tonumber(found[2]), number = tonumber(found[3]), one = 1}
    local sums = of_owner[job.owner] or {one = 0, bytes = 0}
    of_owner[job.owner] = sums
    for name, sum in pairs(total) do
      total[name], sums[name] = sum + job[name], sums[name] + job[name]
    end
    return job
  end
  for _, id in ipairs(unfinished()) do
    count(id)
  end
  for place, id in ipairs(call('ZRANGE', 'finished', 0, -1)) do
    finished[place] = count(id)
    finished[place].score = tonumber(call('ZSCORE', 'finished', id))
  end
  local function goes_first(left, right, name)
    local one, other = of_owner[left.owner][name], of_owner[right.owner][name]
    if one ~= other then
      return one > other
    elseif left.score ~= right.score then
      return left.score < right.score
    end
    return left.number < right.number
  end
  for _, bound in ipairs({{'one', bounds.jobs - jobs}, {'bytes', bounds.content_bytes - bytes}}) do
    local name, most = bound[1], bound[2]
    while total[name] > most do
      local first
      for place, job in ipairs(finished) do
        if job[name] > 0 and (not first or goes_first(job, finished[first], name)) then
          first = place
        end
      end
      if not first then
        break
      end
      local job = table.remove(finished, first)
      for each, sum in pairs(total) do
        total[each] = sum - job[each]
        of_owner[job.owner][each] = of_owner[job.owner][each] - job[each]
      end
      remove(record(job.id))
    end
  end
  return total.bytes
end

local methods = {}

-- Let workers that live report again, after a time in which none could.
function methods.resume()
  if not call('SET', 'version', VERSION, 'NX') and call('GET', 'version') ~= VERSION then
    return call('GET', 'version')
  end
  for _, id in ipairs(call('ZRANGE', 'in_progress', 0, -1)) do
    local lease = tonumber(call('HGET', 'job:' .. id, 'lease_until'))
    call('HSET', 'job:' .. id, 'lease_until', seconds(math.max(lease, now + bounds.lease_seconds)))
  end
  return VERSION
end

-- Returns a name and its values: "job" and the record, or the code of a refusal and what it counted.
function methods.submit(id, owner, key, fingerprint, kind, facts, total, request)
  local name = submission({owner = owner, key = key})
  local known = record(id) or (key ~= '' and record(call('HGET', 'keys', name) or ''))
  if known then
    if known.fingerprint ~= fingerprint then
      return {'idempotency-conflict'}
    end
    return {'job', flat(known.id)}
  end
  local jobs, bytes, own = 0, 0, 0
  for _, other in ipairs(unfinished()) do
    local found = call('HMGET', 'job:' .. other, 'owner', 'bytes')
    jobs, bytes, own = jobs + 1, bytes + found[2], own + (found[1] == owner and 1 or 0)
  end
  if own >= bounds.waiting_jobs then
    return {'rate-limited', own}
  elseif jobs >= bounds.jobs or bytes + #request > bounds.content_bytes then
    return {'overloaded', jobs, bytes}
  end
  evict(1, #request)
  local number = call('INCR', 'number')
  call('HSET', 'job:' .. id, 'id', id, 'number', number, 'owner', owner, 'fingerprint', fingerprint, 'kind', kind,
    'facts', facts, 'status', 'queued', 'created', seconds(now), 'done', 0, 'total', total, 'losses', 0,
    'bytes', #request, 'last_event', 0, 'token', 0, 'runnable_at', seconds(now))
  if key ~= '' then
    call('HSET', 'job:' .. id, 'key', key)
    call('HSET', 'keys', name, id)
  end
  call('SET', 'request:' .. id, request)
  call('ZADD', 'queued', number, id)
  call('ZADD', 'owner:' .. owner, number, id)
  event(id, 'queued', '{}')
  return {'job', flat(id)}
end

function methods.get(owner, id)
  return owned(owner, id) and flat(id)
end

function methods.jobs(owner, limit, after, ascending, kind)
  local past, found = owned(owner, after), {}
  local order, from, to = 'ZREVRANGEBYSCORE', past and '(' .. past.number or '+inf', '-inf'
  if ascending == '1' then
    order, from, to = 'ZRANGEBYSCORE', past and '(' .. past.number or '-inf', '+inf'
  end
  for _, id in ipairs(call(order, 'owner:' .. owner, from, to)) do
    if #found >= tonumber(limit) then
      break
    elseif kind == '' or call('HGET', 'job:' .. id, 'kind') == kind then
      found[#found + 1] = flat(id)
    end
  end
  return found
end

function methods.events(owner, id)
  return owned(owner, id) and call('HGETALL', 'events:' .. id)
end

function methods.cancel(owner, id)
  local job = owned(owner, id)
  if job and not job.finished then
    give_up(job, 'cancelled', '{}')
  end
  return job and flat(id)
end

function methods.delete(owner, id)
  local job = owned(owner, id)
  if job then
    remove(job)
  end
  return job and 1
end

function methods.read(owner, id, offset, length)
  local job = owned(owner, id)
  if not (job and job.content) then
    return nil
  elseif tonumber(length) < 1 then
    return ''
  end
  return call('GETRANGE', 'content:' .. job.content, offset, offset + length - 1)
end

-- Returns record, work and token of the next job: of the caller with the fewest under way, the oldest.
function methods.claim(worker)
  local id = call('HGET', 'workers', worker)
  if not id then
    take_back()
    local under_way, fewest = {}, math.huge
    for _, other in ipairs(call('ZRANGE', 'in_progress', 0, -1)) do
      local owner = call('HGET', 'job:' .. other, 'owner')
      under_way[owner] = (under_way[owner] or 0) + 1
    end
    for _, other in ipairs(call('ZRANGE', 'queued', 0, -1)) do
      local found = call('HMGET', 'job:' .. other, 'owner', 'runnable_at')
      local count = under_way[found[1]] or 0
      if tonumber(found[2]) <= now and count < fewest then
        id, fewest = other, count
      end
      if fewest == 0 then
        break
      end
    end
    if not id then
      return nil
    end
    local job = record(id)
    move(job, 'in_progress', job.number)
    call('HINCRBY', 'job:' .. id, 'token', 1)
    call('HSETNX', 'job:' .. id, 'started', seconds(now))
    call('HSET', 'job:' .. id, 'worker', worker, 'lease_until', seconds(now + bounds.lease_seconds), 'done', 0)
    call('HSET', 'workers', worker, id)
    event(id, 'started', '{}')
  end
  return {flat(id), call('GET', 'request:' .. id), call('HGET', 'job:' .. id, 'token')}
end

function methods.renew(id, token, done)
  local job = held(id, token)
  if not job then
    return nil
  end
  call('HSET', 'job:' .. id, 'lease_until', seconds(now + bounds.lease_seconds), 'done', done)
  if done ~= job.done then
    event(id, 'progress', '{"done": ' .. done .. ', "total": ' .. job.total .. '}')
  end
  return 1
end

function methods.release(id, token, wait)
  local job = held(id, token)
  if job then
    requeue(job, now + wait, 0)
  end
  return job and 1
end

function methods.write(id, token, offset, data)
  local job = held(id, token)
  if job then
    call('SETRANGE', 'content:' .. content(job), offset, data)
  end
  return job and 1
end

-- Returns whether it happened, and the bytes that were there where pieces are missing.
function methods.complete(id, token, media_type, bytes)
  local job, name = held(id, token), id .. '-' .. token
  if not job then
    return {call('HGET', 'job:' .. id, 'content') == name and 1 or 0}
  end
  local there = call('STRLEN', 'content:' .. name)
  if there ~= tonumber(bytes) then
    return {0, there}
  end
  evict(0, bytes - job.bytes)
  local fields = cjson.encode({media_type = media_type, bytes = tonumber(bytes)})
  finish(job, 'completed', fields)
  call('HSET', 'job:' .. id, 'media_type', media_type, 'bytes', bytes, 'content', name, 'done', job.total)
  return {1}
end

function methods.fail(id, token, problem)
  local job = record(id)
  if not job or job.token ~= token then
    return nil
  elseif job.status == 'in_progress' then
    give_up(job, 'failed', problem)
    return 1
  end
  return job.status == 'failed' and 1 or nil
end

-- Returns the bytes of all jobs, the age of the one that has waited longest, and the jobs by status.
function methods.sweep()
  take_back()
  local bytes, counts = evict(0, 0), {}
  for _, name in ipairs({'queued', 'in_progress', 'finished'}) do
    for _, id in ipairs(call('ZRANGE', name, 0, -1)) do
      local status = call('HGET', 'job:' .. id, 'status')
      counts[status] = (counts[status] or 0) + 1
    end
  end
  local first = call('ZRANGE', 'queued', 0, 0)[1]
  return {bytes, seconds(first and now - call('HGET', 'job:' .. first, 'created') or 0), cjson.encode(counts)}
end

return methods[ARGV[1]](unpack(ARGV, 4))
