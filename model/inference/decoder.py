"""The decode engine: sequences in slots that join and leave between steps, one CUDA graph a step.

A step reads each row's newest token, runs the network, samples, and stores the token where the next step reads it. The
host counts steps but reads nothing until codes are asked for. Tokens of a sequence do not depend on its company;
docs/decoding.md states where that is exact.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import sample_tokens
from kernels.decode_rows import HEADER, read_rows, write_rows
from kernels.runtime.jit import compile_all
from model.generator.config import RowPrefix
from model.generator.lm import LanguageModel
from model.inference.graphs import WARM_UPS, StepsAhead, capture_graph
from model.inference.language_model import PackedLanguageModel
from model.inference.row_table import Row, RowTable, send
from model.inference.sequence import DecodeError, Sequence

GPU_BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128)
GPU_BUCKET_STEP = 64  # between larger buckets
CPU_BUCKET_STEP = 4  # torch's products on a CPU give a row equal bits in any multiple of four rows
STEPS_AHEAD = 3  # of the device
CHUNK = 128  # tokens of one pass of prefill


__all__ = ["DecodeError", "Decoder", "Sequence"]


@dataclass(eq=False)
class _Member:
    """A sequence in its slots."""

    sequence: Sequence
    slots: list[int]
    granted: int = 0  # tokens of prefill that the caller has allowed
    filled: int = 0  # tokens of prefill done
    done: int = 0  # steps enqueued

    @property
    def live(self) -> bool:
        """Return whether steps advance it."""
        return self.filled >= self.sequence.prefill and self.done < self.sequence.steps


class Decoder:
    """Slots for sequences of one language model, advanced together. One thread at a time may use it.

    Args:
        model: in float32; it is not changed.
        slots: sequences at once; guidance takes two for one.
        device: of the weights and the cache.
        dtype: of both; bfloat16 on a GPU and float32 on a CPU by default.
        kv_dtype: of the cache; float8_e4m3fn halves its bytes, and changes tokens.
        int8: round weights to int8, which halves their bytes and changes tokens.
        min_rows: least rows of a step on a GPU; with 48, or 96 and a float8 cache, tokens are equal bit by bit whatever
            the company.
    """

    def __init__(
        self,
        model: LanguageModel,
        slots: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        kv_dtype: torch.dtype | None = None,
        int8: bool = False,
        min_rows: int = 1,
    ) -> None:
        if slots < 1:
            raise DecodeError(f"slots={slots} must be at least 1.")
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        dtype = dtype or (torch.bfloat16 if cuda else torch.float32)
        self.capacity = slots
        self.config = model.config
        self.buckets = _buckets(slots, cuda, min_rows)
        self.network = PackedLanguageModel(model, self.device, dtype, int8)
        positions = self.config.positions
        self._first_id = self.config.code_offset if self.config.masks_prefix_ids else 0
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        self._ahead = StepsAhead(STEPS_AHEAD)
        self._pool = torch.cuda.graph_pool_handle() if cuda else None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._chunk = min(CHUNK, self.config.positions)
        self._chunk_graph: torch.cuda.CUDAGraph | None = None
        with self._ordered():
            self.cache = self.network.make_cache(slots, kv_dtype)
            self._rows = RowTable(self.buckets[-1], slots, self.device)
            self._memory = self._zeros(torch.int32, slots + 1, HEADER + positions + 1)  # the last slot is idle
            self._positions = self._zeros(torch.int32, slots + 1, positions)
            self._chunk_place = self._zeros(torch.int64, 2)  # slot, first token
            # zeros, since a kernel that compiles does not fill them, and one that is ready reads them
            self._counts = self._zeros(torch.int32, 2 * self.buckets[-1])
        self._free = list(range(slots - 1, -1, -1))
        self._members: dict[int, _Member] = {}
        self._handles = itertools.count()
        self._running: list[_Member] = []  # in the order of the rows on the device
        self._changed = False

    @property
    def slot_bytes(self) -> int:
        """Return the bytes of the cache that one slot takes."""
        return self.cache.data.nbytes // self.cache.slots

    @property
    def free(self) -> int:
        """Return the slots that nothing holds."""
        return len(self._free)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture the graph of every bucket and of prefill; does nothing on a CPU, nor a second time."""
        if self._members:
            raise DecodeError(f"warm_up must come before the first sequence joins; {len(self._members)} have.")
        if self._stream is None:
            return
        with self._ordered():
            with compile_all():  # every kernel at once, on all cores
                for rows in self.buckets:
                    self._advance(rows)
                self._append_chunk(self.config.positions)
            for rows in reversed(self.buckets):  # the largest first, whose memory the others share
                self._graph(rows)
            self._graph_of_chunk()

    @torch.inference_mode()
    def join(self, sequence: Sequence) -> int:
        """Give a sequence its slots; it advances from the next step, or the next after its prefill.

        Raises:
            DecodeError: too few slots are free, or the sequence is longer than the model's positions.
        """
        if sequence.slots > self.free:
            raise DecodeError(f"{sequence.slots} slots must be free, and {self.free} are; let a sequence leave first.")
        for prefix, known in zip(sequence.prefixes, sequence.known, strict=True):
            end = prefix.next_position + len(sequence.prompt) + sequence.length - 1
            if end > self.config.positions or known + sequence.length - 1 > self.config.positions:
                raise DecodeError(
                    f"length={sequence.length} after {known} tokens needs {end} positions; the model has "
                    f"{self.config.positions}."
                )
        member = _Member(sequence, [self._free.pop() for _ in range(sequence.slots)])
        with self._ordered():
            for slot, prefix, known in zip(member.slots, sequence.prefixes, sequence.known, strict=True):
                self._place(sequence, slot, prefix, known)
        handle = next(self._handles)
        self._members[handle] = member
        self._changed = True
        return handle

    def leave(self, handle: int) -> None:
        """Free a sequence's slots, whether it is finished or not."""
        member = self._members.pop(handle)
        self._free += reversed(member.slots)
        self._changed = True

    @torch.inference_mode()
    def prefill(self, handle: int, max_tokens: int) -> int:
        """Compute the next tokens of a sequence's prompt.

        Passes have a fixed length, which makes their results independent of the calls; the last token allowed may
        share its pass with later ones.

        Returns:
            the tokens that are left.
        """
        member = self._members[handle]
        total = member.sequence.prefill
        member.granted = min(total, member.granted + max_tokens)
        with self._ordered():
            while member.filled < member.granted:
                for slot in member.slots:
                    self._fill_chunk(slot, member.filled)
                member.filled = min(total, member.filled + self._chunk)
        if member.live:
            self._changed = True
        return total - member.granted

    @torch.inference_mode()
    def step(self, count: int = 1) -> None:
        """Advance every sequence that is neither in prefill nor finished. On a GPU it returns before that is done."""
        for _ in range(count):
            with self._ordered():
                if self._changed:
                    self._arrange()
                if not self._running:
                    return
                rows = self._bucket(sum(member.sequence.slots for member in self._running))
                if self._stream is None:
                    self._advance(rows)
                else:
                    self._graph(rows).replay()
                    self._ahead.add(self._stream)
            for member in self._running:
                member.done += 1
                self._changed |= not member.live

    def progress(self, handle: int) -> int:
        """Return the codes that the steps so far generate, known without the device."""
        member = self._members[handle]
        return max(0, member.done - (member.sequence.steps - member.sequence.length))

    def finished(self, handle: int) -> bool:
        """Return whether the steps so far generate the last code."""
        return self.progress(handle) == self._members[handle].sequence.length

    def read(self, handle: int) -> Tensor:
        """Return the codes generated so far, int64 on the CPU; waits for the device.

        Ids below the codes, which a model that does not exclude them may draw, are code 0 as in the published sampler.
        """
        return (self.read_ids(handle) - self.config.code_offset).clamp_min(0)

    def read_ids(self, handle: int) -> Tensor:
        """Return the vocabulary ids generated so far, int64 on the CPU; waits for the device."""
        member = self._members[handle]
        first = HEADER + member.sequence.known[0]
        with self._ordered():
            return self._memory[member.slots[0], first : first + self.progress(handle)].long().cpu()

    @contextmanager
    def _ordered(self) -> Iterator[None]:
        """Run a block on the decoder's own stream, where its work keeps its order."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            yield

    def _bucket(self, rows: int) -> int:
        return self.buckets[bisect_left(self.buckets, rows)]

    def _zeros(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _place(self, sequence: Sequence, slot: int, prefix: RowPrefix, known: int) -> None:
        """Write the known tokens of a row, its positions and its clock."""
        ids = [*prefix.ids, *(code + self.config.code_offset for code in sequence.prompt)]
        count = len(sequence.prompt) + sequence.length
        positions = [*prefix.positions, *range(prefix.next_position, prefix.next_position + count)]
        fits = torch.tensor(positions[: self.config.positions], dtype=torch.int32)
        fits.clamp_(max=self.config.positions - 1)  # of the last code, which is never fed
        start = known - 1 if sequence.prefill else known - max(sequence.known)
        clock = (start, known, known + sequence.length - 1)
        send(torch.tensor((*clock, *ids), dtype=torch.int32), self._memory[slot, : HEADER + known])
        send(fits, self._positions[slot, : len(fits)])

    def _arrange(self) -> None:
        """Send the rows of the sequences that a step advances."""
        self._running = [member for member in self._members.values() if member.live]
        rows: list[Row] = []
        for member in self._running:
            first, last = len(rows), len(rows) + member.sequence.slots - 1
            rows += [Row(slot, slot, first, last, member.sequence.params) for slot in member.slots]
        if self._stream is not None and rows:
            self._graph(self._bucket(len(rows)))
        self._rows.fill(rows)
        self._changed = False

    def _advance(self, rows: int) -> None:
        """Run one step of the first rows."""
        columns = self._rows.first(rows)
        counts = self._counts[: 2 * rows].view(2, rows)
        tables = self.network.tokens, self.network.positions
        x = read_rows(self._memory, self._positions, columns.slots, *tables, counts)
        logits = self.network.step(x, self.cache, columns.cached, counts[0])
        drawn = sample_tokens(
            logits,
            columns.conditional,
            columns.unconditional,
            counts[1],
            columns.seeds,
            columns.temperature,
            columns.top_k,
            columns.top_p,
            columns.guidance,
            columns.growth,
            self._first_id,
        )
        write_rows(self._memory, columns.slots, drawn)

    def _fill_chunk(self, slot: int, start: int) -> None:
        send(torch.tensor((slot, start)), self._chunk_place)
        if self._stream is None:
            self._append_chunk(min(self.config.positions, start + self._chunk))
        else:
            self._graph_of_chunk().replay()
            self._ahead.add(self._stream)

    def _append_chunk(self, bound: int) -> None:
        """Compute one pass of prefill; what it stores after the known tokens is overwritten before it is read."""
        slot, start = self._chunk_place[:1], self._chunk_place[1:]
        places = (start + torch.arange(self._chunk, device=self.device)).clamp_max(bound - 1)
        ids, positions = self._memory[slot, HEADER + places], self._positions[slot, places]
        self.network.append(ids, positions, self.cache, slot, places, bound)

    def _graph(self, rows: int) -> torch.cuda.CUDAGraph:
        """Return the captured step of so many rows; capturing it leaves the rows idle."""
        if rows not in self._graphs:
            self._rows.fill([])
            self._graphs[rows] = self._capture(lambda: self._advance(rows))
        return self._graphs[rows]

    def _graph_of_chunk(self) -> torch.cuda.CUDAGraph:
        """Return the captured pass of prefill; capturing it runs the pass, which may be repeated."""
        if self._chunk_graph is None:
            self._chunk_graph = self._capture(lambda: self._append_chunk(self.config.positions))
        return self._chunk_graph

    def _capture(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        for _ in range(WARM_UPS):
            run()
        graph, _ = capture_graph(run, self._pool, self._stream, errors="thread_local")
        return graph


def _buckets(slots: int, cuda: bool, min_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows that steps have, in order; the last holds every slot."""
    if not cuda:
        return tuple(range(CPU_BUCKET_STEP, slots + CPU_BUCKET_STEP, CPU_BUCKET_STEP))
    larger = range(GPU_BUCKETS[-1] + GPU_BUCKET_STEP, slots + GPU_BUCKET_STEP, GPU_BUCKET_STEP)
    sizes = [rows for rows in (*GPU_BUCKETS, *larger) if rows >= min_rows]
    return tuple(sizes[: bisect_left(sizes, slots) + 1])
