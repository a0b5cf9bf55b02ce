"""The server answers OpenAI's unchanged client and text-embeddings-inference's schema with the bits of this process."""

import asyncio
import base64
import dataclasses
import gzip
import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

import engine.client.remote
from engine.client.remote import RemoteEncoder, connect, info_sha256
from engine.errors import InputError, NumericError, OptionError, UnavailableError
from engine.model.tokenizer import Tokens
from engine.protocol import Encoder
from engine.runtime.request import Room
from engine.serving.config import ServerConfig
from engine.serving.connection import listen
from features.embedding.file import embed_file, read_through
from flows.project.project import Project
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine.texts import make_texts
from tests.engine_servers import WAIT_S, ServerProcess, post, server_thread
from tests.projects import ROOT
from tests.studio import http_server

TEXTS = ["", "Oil rose.", 'Wheat "fell" \u20ac\u0000\u202e', *make_texts(60, longest=90, seed=4)]


@pytest.fixture(scope="module")
def here(encoder: Encoder) -> np.ndarray:
    return encoder.encode(TEXTS)


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_the_unchanged_openai_client(engine_server: ServerProcess, here: np.ndarray, form: str | None) -> None:
    client = openai.OpenAI(base_url=f"{engine_server.url}/v1", api_key="not needed here", max_retries=0)
    options = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model="dense", input=TEXTS, **options)  # type: ignore[arg-type]
    rows = [entry.embedding for entry in answer.data]
    if form == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]  # type: ignore[arg-type]
    assert np.array_equal(np.array(rows, np.float32), here)
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > len(TEXTS)


def test_one_text_instead_of_a_list(engine_server: ServerProcess, here: np.ndarray) -> None:
    client = openai.OpenAI(base_url=f"{engine_server.url}/v1", api_key="-", max_retries=0)
    [entry] = client.embeddings.create(model="dense", input=TEXTS[1]).data
    assert np.array_equal(np.array(entry.embedding, np.float32), here[1])


def test_the_other_schema(engine_server: ServerProcess, here: np.ndarray) -> None:
    assert np.array_equal(np.array(post(engine_server.url, inputs=TEXTS).json(), np.float32), here)
    assert np.array_equal(np.array(post(engine_server.url, inputs=TEXTS[3]).json(), np.float32), here[3:4])


@pytest.mark.parametrize(
    ("path", "field", "left_out"),
    [
        ("/v1/embeddings", "input", ("model", "encoding_format", "dimensions", "user", "trace")),
        ("/embed", "inputs", ("truncate", "normalize", "truncation_direction", "prompt_name")),
    ],
)
def test_a_field_that_is_null_is_left_out(
    engine_server: ServerProcess, path: str, field: str, left_out: tuple[str, ...]
) -> None:
    wanted = {field: TEXTS[:2]}
    answer = post(engine_server.url, path, **wanted, **dict.fromkeys(left_out))
    assert answer.status_code == 200, answer.text
    assert answer.json() == post(engine_server.url, path, **wanted).json()


def test_many_callers_at_once_get_the_same_bits(engine_server: ServerProcess, here: np.ndarray) -> None:
    def ask(index: int) -> bool:
        place = index % len(TEXTS)
        return np.array_equal(np.array(post(engine_server.url, inputs=TEXTS[place]).json()[0], np.float32), here[place])

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(ask, range(160)))


def test_the_remote_encoder_gives_all_that_the_one_in_this_process_gives(
    engine_server: ServerProcess, encoder: Encoder
) -> None:
    remote = connect(engine_server.url, name="dense", max_tokens=64)
    assert (remote.encoder_id, remote.dimension, remote.max_tokens) == (encoder.encoder_id, encoder.dimension, 64)
    texts = TEXTS * 6  # several requests
    told: list[tuple[int, int]] = []
    there, ours = remote.embed(texts, lambda done, count: told.append((done, count))), encoder.embed(texts)
    for field in dataclasses.fields(there):
        assert np.array_equal(getattr(there, field.name), getattr(ours, field.name)), field.name
    assert np.array_equal(remote.encode(texts), ours.vectors)
    assert told[-1] == (len(texts), len(texts))
    assert remote.embed([]).vectors.shape == (0, encoder.dimension)


def test_the_remote_encoder_tells_routes() -> None:
    encoder = broken_encoder()
    with server_thread(encoder) as server:
        there, ours = RemoteEncoder(server.url).embed(["bank trade ship"]), encoder.embed(["bank trade ship"])
    assert there.routes == ours.routes != [""]
    assert np.array_equal(there.active_frac, ours.active_frac)


def test_the_remote_encoder_names_the_text_that_is_wrong(engine_server: ServerProcess) -> None:
    remote = RemoteEncoder(engine_server.url)
    with pytest.raises(InputError) as caught:
        remote.encode(["fine", "half of a pair \ud83d"])
    assert list(caught.value.reasons) == [1]
    with pytest.raises(InputError) as caught:
        remote.encode(["fine", "x" * (3 << 20)])
    assert list(caught.value.reasons) == [1]
    with server_thread(broken_encoder()) as server, pytest.raises(NumericError) as numeric:
        RemoteEncoder(server.url).encode(["bank"] * 130 + ["oil"])
    assert numeric.value.indexes == (130,)


def test_the_remote_encoder_names_the_text_that_only_the_server_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = broken_encoder()
    tokenize = encoder.tokenize

    def strict(texts: Sequence[str]) -> list[Tokens]:
        if "ship" in texts:
            raise InputError("A ship is none.", {texts.index("ship"): "a ship"})
        return tokenize(texts)

    monkeypatch.setattr(encoder, "tokenize", strict)
    with server_thread(encoder) as server, pytest.raises(InputError) as caught:
        RemoteEncoder(server.url).encode(["bank"] * 130 + ["ship"])
    assert caught.value.reasons == {130: "refused by the server"}


@pytest.mark.parametrize("room", [Room(entries=40, tokens=65_536), Room(entries=4096, tokens=300)])
def test_the_remote_encoder_asks_for_no_more_than_the_queue_holds(room: Room) -> None:
    encoder = broken_encoder()
    texts = ["bank trade ship " * 40, "ship"] * 80
    ours = encoder.encode(texts)
    with server_thread(encoder, ServerConfig(room=room)) as server:
        assert np.array_equal(RemoteEncoder(server.url).encode(texts), ours)


def test_another_encoder_than_the_one_that_is_wanted_is_refused(engine_server: ServerProcess) -> None:
    for asked, wanted in ((128, 128), (None, 256)):  # left out, as the encoder has it in this process
        with pytest.raises(OptionError, match=f"max_tokens = 64, the settings ask for {wanted}"):
            connect(engine_server.url, name="dense", max_tokens=asked)
    with pytest.raises(OptionError, match=r"name = 'dense', the settings ask for 'routed'"):
        connect(engine_server.url, name="routed")


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"first")
    first = info_sha256(str(mine))
    with server_thread(broken_encoder(), name=mine.name, active=0.3, sha256=first) as server:
        assert connect(server.url, name=str(mine)).info["sha256"] == hashlib.sha256(b"first").hexdigest()
        mine.write_bytes(b"second")
        with pytest.raises(OptionError, match=r"has another mine\.safetensors"):
            connect(server.url, name=str(mine))
        mine.unlink()  # whoever has no such file takes the server's word
        connect(server.url, name=str(mine))


def test_a_server_that_does_not_say_its_default_budget_is_held_to_the_usual_one() -> None:
    for budget in (0.3, None):  # None: the encoder has no budgets
        with server_thread(broken_encoder(), active=budget) as server:
            assert connect(server.url, name="tiny").info["active"] == budget
    with (
        server_thread(broken_encoder(), active=0.5) as server,
        pytest.raises(OptionError, match=r"has active = 0\.5, the settings ask for 0\.3"),
    ):
        connect(server.url, name="tiny")
    with server_thread(broken_encoder(), active=1.0, default_active=1.0) as server:
        assert connect(server.url, name="tiny").info["active"] == 1.0


def test_a_server_that_becomes_another_encoder_is_refused() -> None:
    encoder = broken_encoder()
    with server_thread(encoder) as server:
        remote = RemoteEncoder(server.url)
        encoder.encoder_id = "another"
        with pytest.raises(OptionError, match="now serves another"):
            remote.encode(["bank"])


def test_a_server_that_is_away_is_said_to_be_away() -> None:
    with pytest.raises(UnavailableError, match=r"cannot be reached .*`siftline engine serve`"):
        RemoteEncoder("http://127.0.0.1:9", patience_s=0.3)


@pytest.mark.parametrize("content", [b"hello", gzip.compress(b"{}", mtime=0)], ids=["plain", "gzip"])
def test_an_answer_that_is_packed_is_none(content: bytes) -> None:
    """Nobody asked for it, and it may unpack to any size."""

    def pack(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with http_server(pack) as url, pytest.raises(UnavailableError, match="they are packed, which was not asked for"):
        RemoteEncoder(url, patience_s=0)


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_on(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            for _ in range(100):
                handler.wfile.write(bytes(2**20))

    def drip(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.02)

    with http_server(send_on) as url, pytest.raises(UnavailableError, match="larger than 64 MiB"):
        RemoteEncoder(url, patience_s=0)
    monkeypatch.setattr(engine.client.remote, "TIMEOUT_S", 0.3)
    with http_server(drip) as url, pytest.raises(UnavailableError, match=r"no whole answer in 0\.3 s"):
        RemoteEncoder(url, patience_s=0)


def test_what_the_server_says_of_its_own_error_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = broken_encoder()
    with server_thread(encoder) as server:
        remote = RemoteEncoder(server.url, patience_s=0.3)
        monkeypatch.setattr(encoder, "tokenize", lambda _: 1 // 0)
        with pytest.raises(UnavailableError, match=r"answers 500 \(The server failed; its log has error [0-9a-f]{8}"):
            remote.encode(["bank"])


def test_an_interrupted_process_does_not_go_on_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = broken_encoder()
    asked = threading.Event()

    def fail(_: object) -> None:
        asked.set()
        raise ZeroDivisionError

    monkeypatch.setattr(encoder, "tokenize", fail)
    script = "import sys, engine.client.remote as r; r.RemoteEncoder(sys.argv[1], patience_s=600).encode(['a'] * 900)"
    with server_thread(encoder) as server:
        process = subprocess.Popen([sys.executable, "-c", script, server.url], cwd=ROOT, stderr=subprocess.PIPE)
        try:
            assert asked.wait(WAIT_S)
            process.send_signal(signal.SIGINT)
            assert b"KeyboardInterrupt" in process.communicate(timeout=WAIT_S)[1]
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_told_to_end_waits_for_no_answer(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    encoder = broken_encoder()
    asked, answer = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        asked.set()
        answer.wait(WAIT_S)
        raise ZeroDivisionError

    monkeypatch.setattr(encoder, "tokenize", hang)
    script = (
        "import signal, sys, engine.client.remote as r\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('told to end')); "
        "r.RemoteEncoder(sys.argv[1]).encode(['a'] * 900)"
    )
    with server_thread(encoder) as server:
        process = subprocess.Popen([sys.executable, "-c", script, server.url], cwd=ROOT, stderr=subprocess.PIPE)
        try:
            assert asked.wait(WAIT_S)
            process.send_signal(number)
            said = process.communicate(timeout=WAIT_S / 3)[1]
            assert b"told to end" in said or b"KeyboardInterrupt" in said
        finally:
            answer.set()
            process.kill()
            process.wait()


def test_a_project_uses_the_server_when_its_url_is_set(
    engine_server: ServerProcess, encoder: Encoder, tmp_path: Path
) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n'
        f'[encoder]\nname = "dense"\nmax_tokens = 64\n[engine]\nurl = "{engine_server.url}"\n'
    )
    chosen = Project(tmp_path).encoder
    assert isinstance(chosen, RemoteEncoder)
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(f"Oil rose by {n}." for n in range(300)) + "\n")
    for name, one in (("there", chosen), ("here", encoder)):
        output = tmp_path / f"{name}.parquet"
        embed_file(read_through(tmp_path / "texts.csv", text_field="text", id_field=None, output=output), one)
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()


def test_info_and_metrics_say_what_was_done(engine_server: ServerProcess) -> None:
    post(engine_server.url, inputs=["Oil rose."] * 3)
    info = httpx.get(f"{engine_server.url}/info").json()
    assert info["name"] == "dense"
    assert info["limits"]["max_inputs"] == 512
    text = httpx.get(f"{engine_server.url}/metrics").text
    figures = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    assert figures["siftline_embeddings_total"] >= 3
    for phase in ("queue", "tokenize", "infer", "request"):
        assert figures[f"siftline_{phase}_seconds_count"] > 0
    assert figures["siftline_batch_texts_sum"] >= 3
    assert figures["siftline_active_fraction_count"] >= 1
    assert figures['siftline_requests_total{path="/embed",status="200"}'] >= 1
    [joules] = [v for k, v in figures.items() if k.startswith("siftline_joules_per_1000_embeddings")]
    assert joules > 0
    assert ('estimated="yes"' in text) == ("estimated: processor seconds" in text)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Headers and body are two writes: with Nagle's algorithm the second waits some 40 ms."""

    async def no_delay() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                try:
                    return await asyncio.wait_for(found, 10)
                finally:
                    writer.close()

    assert asyncio.run(no_delay())
