"""Models that write: one on this machine, one behind a server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from align.data.errors import UserError
from align.data.generated.sampling import Sampling, Written
from align.pipeline.writers import endpoint_writer, local_writer
from align.reward.judge.posting import Endpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the requests that it got; it writes the prompt back."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            prompt = body["messages"][0]["content"]
            if prompt == "too long":
                self.send_error(400)
                return
            choice = {
                "message": {"content": f"{prompt}! STOP and more"},
                "finish_reason": "length" if prompt == "cut" else "stop",
            }
            reply = {"choices": [choice]} if prompt != "odd" else {"nothing": 1}
            content = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/v1", asked
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_server_writes_after_each_prompt_in_their_order(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    url, asked = server
    write = endpoint_writer(Endpoint(url=url, model="writer"))
    sampling = Sampling(max_tokens=9, temperature=0.7, top_p=0.9)
    prompts = [f"prompt {i}" for i in range(9)]
    assert write(prompts, sampling) == [Written(f"{p}! STOP and more", True) for p in prompts]
    assert asked[0].items() >= {"temperature": 0.7, "top_p": 0.9, "max_tokens": 9}.items()
    assert "stop" not in asked[0]
    assert write(["cut"], sampling) == [Written("cut! STOP and more", False)]
    assert write([], sampling) == []


def test_what_is_not_sampled_has_temperature_0_and_stops_end_a_text(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    url, asked = server
    write = endpoint_writer(Endpoint(url=url, model="writer"))
    greedy = Sampling(max_tokens=9, do_sample=False, stop=(" STOP",))
    assert write(["cut"], greedy) == [Written("cut!", True)]
    assert asked[0]["temperature"] == 0 and asked[0]["stop"] == [" STOP"]


def test_a_prompt_that_is_declined_is_empty_and_a_strange_reply_is_one_line(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    write = endpoint_writer(Endpoint(url=server[0], model="writer"))
    assert write(["too long"], Sampling(9)) == [Written("", False)]
    with pytest.raises(UserError, match="replied with no chat completion"):
        write(["odd"], Sampling(9))


def test_a_model_here_writes_the_same_again_and_greedily_without_chance() -> None:
    sampled, greedy = Sampling(max_tokens=8), Sampling(max_tokens=8, do_sample=False)
    prompts = ["Tell me a story.", "Tell me of a dog."]
    write = local_writer("embedded", 1)
    first = [write(prompts, sampled), write(prompts, greedy)]
    again = local_writer("embedded", 1)
    assert [again(prompts, sampled), again(prompts, greedy)] == first
    other = local_writer("embedded", 2)
    assert other(prompts, sampled) != first[0] and other(prompts, greedy) == first[1]
    assert not first[1][0].finished and first[1][0].text
