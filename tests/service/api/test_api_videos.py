"""`/v1/videos` by the client that knows its shape, and by hand."""

from __future__ import annotations

import base64
import io
from typing import Any

import av
import httpx
import openai
import pytest
from api_media import picture
from api_server import Server
from waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
URL = "/v1/videos"


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def frames(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as file:
        return sum(1 for _ in file.decode(video=0))


def test_its_client_makes_a_video(client: openai.OpenAI, http: httpx.Client) -> None:
    made = client.videos.create(prompt="red fox", model="toy-lm", extra_body={"seed": 5, "num_frames": 9})  # type: ignore[arg-type]
    assert (made.object, made.model, made.prompt, made.size, made.seconds) == (
        "video",
        "toy-lm",
        "red fox",
        "32x32",
        "0.36",
    )
    assert made.status == "queued"
    done = client.videos.poll(made.id, poll_interval_ms=20)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.completed_at
    assert done.expires_at
    assert done.expires_at > done.completed_at
    data = client.videos.download_content(made.id).read()
    assert frames(data) == 9
    assert data == http.post("/generate?class=1&kind=video&frames=9&seed=5", headers={"Accept": "video/mp4"}).content
    assert http.get(f"/jobs/{made.id}").json()["status"] == "completed"
    deleted = client.videos.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError) as gone:
        client.videos.retrieve(made.id)
    assert gone.value.code == "unknown-job"


def test_its_client_continues_a_picture(client: openai.OpenAI, http: httpx.Client) -> None:
    reference = ("still.png", picture(height=32, width=32), "image/png")
    made = client.videos.create_and_poll(
        prompt="0",
        seconds="0.2",
        input_reference=reference,
        extra_body={"seed": 1},
        poll_interval_ms=20,  # type: ignore[arg-type]
    )
    assert made.status == "completed"
    data = client.videos.download_content(made.id).read()
    assert frames(data) == 5
    url = f"data:image/png;base64,{base64.b64encode(reference[1]).decode()}"
    body = {"prompt": 0, "seed": 1, "num_frames": 5, "input_reference": {"image_url": url}}
    again = http.post(URL, json=body).json()
    eventually(lambda: http.get(f"{URL}/{again['id']}").json()["status"] == "completed")
    assert http.get(f"{URL}/{again['id']}/content").content == data


def test_its_client_lists_videos(client: openai.OpenAI) -> None:
    made = [client.videos.create(prompt="0", extra_body={"seed": seed}).id for seed in range(3)]
    assert [video.id for video in client.videos.list(limit=2)][:3] == made[::-1], "over pages"
    assert [video.id for video in client.videos.list(limit=50, order="asc")][-3:] == made
    for name in made:
        client.videos.delete(name)
    assert not {video.id for video in client.videos.list()} & set(made)


def test_a_video_that_fails_says_why(client: openai.OpenAI) -> None:
    made = client.videos.create_and_poll(
        prompt="0", input_reference=("a.png", picture()[:60], "image/png"), poll_interval_ms=20
    )
    assert made.status == "failed"
    assert made.error is not None
    assert made.error.code == "corrupt-media"
    with pytest.raises(openai.ConflictError):
        client.videos.download_content(made.id)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"prompt": "blue fox"}, 400, "prompt"),
        ({"prompt": 0, "size": "1280x720"}, 400, "size"),
        ({"prompt": 0, "seconds": "0"}, 400, "seconds"),
        ({"prompt": 0, "seconds": "4", "num_frames": 9}, 400, "num_frames"),
        ({"prompt": 0, "seconds": "3000"}, 400, None),
        ({"prompt": 0, "model": "sora-2"}, 404, "model"),
        ({"prompt": 0, "model": "toy-dit"}, 400, "kind"),
        ({"prompt": 0, "input_reference": {"file_id": "file-1"}}, 400, None),
        ({"prompt": 0, "quality": "hd"}, 400, "quality"),
    ],
)
def test_errors_have_its_shape(http: httpx.Client, body: dict[str, Any], status: int, param: str | None) -> None:
    response = http.post(URL, json=body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param


def test_other_requests_are_refused_in_its_shape(http: httpx.Client) -> None:
    job = http.post("/generate?class=0", headers={"Prefer": "respond-async"}).json()["id"]
    for path, status in ((f"/{job}", 404), ("/x", 404), ("/x/content?variant=thumbnail", 400), ("?order=up", 400)):
        response = http.get(f"{URL}{path}")
        assert (response.status_code, set(response.json())) == (status, {"error"}), path
    assert http.post(URL, data={"prompt": "0"}, files={"other": b"x"}).status_code == 400
    assert http.post(URL, content=b"x", headers={"Content-Type": "image/png"}).status_code == 415
