"""The Python client of the service, in a blocking and an asynchronous form. It needs neither torch nor ray.

with Client("http://127.0.0.1:8000") as client:
    result = client.encode("clip.mp4", size="128", frames=17)
    video = client.decode(result, accept="video/mp4")
    (picture,) = client.generate("red fox", accept="image/png")
    tokens = np.concatenate(list(client.encode_stream("video.mp4", size="128")))
    job = client.wait(client.submit("red fox", n=64))
    samples = read_arrays(client.content(job))
"""

from service.client.async_client import AsyncClient
from service.client.calls import ConnectionOptions, DecodeOptions, EncodeOptions, MediaOptions, ReconstructOptions
from service.client.client import Client
from service.client.generation import GenerateEvent, GenerateOptions, Prefix
from service.client.jobs import Job, JobEvent
from service.client.media import Codes, Media
from service.client.retries import ServiceError
from service.client.streams import AsyncStream, Stream
from service.formats.codes import read_codes, write_codes
from service.formats.result import EncodeResult
from service.formats.samples import Samples, read_arrays

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Codes",
    "ConnectionOptions",
    "DecodeOptions",
    "EncodeOptions",
    "EncodeResult",
    "GenerateEvent",
    "GenerateOptions",
    "Job",
    "JobEvent",
    "Media",
    "MediaOptions",
    "Prefix",
    "ReconstructOptions",
    "Samples",
    "ServiceError",
    "Stream",
    "read_arrays",
    "read_codes",
    "write_codes",
]
