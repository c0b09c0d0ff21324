"""Downloads from a loopback server that plays the host, well and badly: each failure by name, with what to do."""

import hashlib
import multiprocessing
import random
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from models.disk import SPARE_BYTES
from models.weights.digests import Expected
from models.weights.download import REMEDIES, DownloadError, Failure, Wanted, arrived_bytes, download
from tests.support.loopback_host import Host

CONTENT = random.Random(0).randbytes(5000)
OTHER = random.Random(1).randbytes(5000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
VARIABLES = ("VANDKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
HUB = "https://huggingface.co/timm/net/resolve/main/sub/model.safetensors"


@pytest.fixture
def host(monkeypatch, tmp_path):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "records"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    getattr(huggingface_hub, "close_session", lambda: None)()  # from release 1 on it remembers the proxy
    host = Host()
    host.files["/net.pt"] = CONTENT
    host.files["/timm/net/resolve/main/sub/model.safetensors"] = CONTENT
    yield host
    host.close()


@pytest.fixture
def wanted(host, tmp_path):
    place = tmp_path / "shelf/net.pt"
    return Wanted("net", (f"{host.address}/net.pt",), place, Expected(len(CONTENT), SHA256))


@pytest.fixture
def on_hub(host, wanted, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", host.address + "/")
    return replace(wanted, addresses=(HUB,))


def part_of(wanted):
    return wanted.path.with_name("net.pt.part")


def fails(wanted, failure):
    with pytest.raises(DownloadError) as caught:
        download(wanted)
    assert caught.value.failure is failure
    message = str(caught.value)
    assert str(failure) in message or failure is Failure.OFFLINE
    assert REMEDIES[failure] in message
    assert f"or put the file at {wanted.path} by hand (5,000 bytes, sha256 {SHA256})" in message
    assert not wanted.path.exists()
    return message


@pytest.mark.parametrize("where", ["wanted", "on_hub"])
def test_a_file_is_fetched_whole_and_nothing_else_is_left(host, where, request):
    wanted = request.getfixturevalue(where)
    assert download(wanted) == wanted.path
    assert wanted.path.read_bytes() == CONTENT
    assert [path.name for path in wanted.path.parent.iterdir()] == ["net.pt"]
    download(wanted)
    assert len(host.requests) == 1


@pytest.mark.parametrize("cut", ["cut 3000", "chunked cut"])
def test_an_interrupted_download_continues_by_itself(host, wanted, cut):
    host.script = [cut]
    download(wanted)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=3000-" if cut == "cut 3000" else "bytes=100-"]


@pytest.mark.parametrize("where", ["wanted", "on_hub"])
def test_an_interrupted_download_is_kept_and_the_next_run_continues_it(host, where, request, monkeypatch):
    wanted = request.getfixturevalue(where)
    monkeypatch.setattr("models.weights.download.TRIES", 1)
    host.script = ["cut 1000", *["cut 0"] * 30]  # huggingface_hub 1 and later tries again by itself
    assert "(1,000 bytes are kept)" in fails(wanted, Failure.ENDED_EARLY)
    assert arrived_bytes(wanted.path) == 1000
    host.script = []
    download(wanted)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges()[-1] == "bytes=1000-"


def test_a_killed_process_leaves_a_part_that_is_continued(host, wanted, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 20)
    host.script = ["stall 2000"]
    process = multiprocessing.get_context("fork").Process(target=download, args=(wanted,))
    process.start()
    while not host.requests:
        process.join(0.01)
    process.join(0.1)
    assert process.is_alive()
    process.kill()
    process.join()
    download(wanted)
    assert wanted.path.read_bytes() == CONTENT


@pytest.mark.parametrize("answer", ["no range", "wrong range"])
def test_a_range_that_the_host_does_not_keep_to_starts_over(host, wanted, answer):
    host.script = ["cut 3000", answer]
    download(wanted)
    assert wanted.path.read_bytes() == CONTENT


@pytest.mark.parametrize("held", [CONTENT, CONTENT + b"more", OTHER[:4000], OTHER])
def test_a_part_that_lies_there_is_continued_or_found_out(host, wanted, held):
    wanted.path.parent.mkdir()
    part_of(wanted).write_bytes(held)
    download(wanted)
    assert wanted.path.read_bytes() == CONTENT
    assert not part_of(wanted).exists()
    assert bool(host.requests) == (held != CONTENT)


def test_without_a_digest_nothing_is_pieced_together(host, wanted):
    wanted.path.parent.mkdir()
    part_of(wanted).write_bytes(OTHER[:4000])
    download(replace(wanted, expected=Expected()))
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None]


@pytest.mark.parametrize("where", ["wanted", "on_hub"])
def test_tampered_content_is_refused_deleted_and_named(host, where, request):
    wanted = request.getfixturevalue(where)
    host.script = ["tampered"] * 9
    message = fails(wanted, Failure.WRONG_CONTENT)
    assert f"expected the digest {SHA256}, got " in message
    assert message.count("deleted") == 1
    assert list(wanted.path.parent.iterdir()) == []
    assert len(host.requests) == 1, "asking again would bring the same"


def test_a_git_digest_is_enforced_too(host, wanted):
    blob = hashlib.sha1(b"blob 5000\0" + CONTENT).hexdigest()
    marked = replace(wanted, expected=Expected(git_blob=blob))
    host.script = ["tampered"]
    with pytest.raises(DownloadError, match=f"digest {blob}"):
        download(marked)
    assert download(marked).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "said"),
    [("page", "what came is a web page"), ("short", "expected 5,000 bytes, got 2,500: the file is truncated")],
)
def test_another_file_than_recorded_is_named(host, wanted, answer, said):
    host.script = [answer]
    assert said in fails(wanted, Failure.WRONG_CONTENT)


@pytest.mark.parametrize(
    ("status", "failure"),
    [(404, Failure.NOT_FOUND), (410, Failure.NOT_FOUND), (401, Failure.REFUSED), (403, Failure.REFUSED),
     (500, Failure.SERVER), (503, Failure.SERVER), (429, Failure.SERVER)],
)  # fmt: skip
def test_each_status_has_its_name_and_none_that_stays_is_tried_again(host, wanted, status, failure):
    host.script = [f"status {status}"] * 9
    assert str(status) in fails(wanted, failure)
    assert len(host.requests) == 1 or failure is Failure.SERVER  # of these, each release tries others again


def test_what_the_hub_has_not_is_not_found(host, on_hub):
    host.files.clear()
    fails(on_hub, Failure.NOT_FOUND)


def test_a_host_that_stalls_is_given_up_after_the_time_out(host, wanted, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    host.script = ["stall 100", *["stall 0"] * 40]
    assert "bytes are kept" in fails(wanted, Failure.SLOW)


def test_mirrors_are_tried_in_turn_and_continue_what_has_arrived(host, wanted, monkeypatch):
    monkeypatch.setattr("models.weights.download.TRIES", 1)
    mirror = Host()
    mirror.files["/copy"] = CONTENT
    host.script = ["cut 1000", "status 404"]
    try:
        download(replace(wanted, addresses=(*wanted.addresses, f"{mirror.address}/copy")))
        assert wanted.path.read_bytes() == CONTENT
        assert mirror.ranges() == ["bytes=1000-"]
    finally:
        mirror.close()


def test_when_all_mirrors_fail_each_is_named(host, wanted):
    addresses = (*wanted.addresses, f"{host.address}/gone", "http://127.0.0.1:9/closed")
    host.script = ["tampered"]
    message = fails(replace(wanted, addresses=addresses), Failure.WRONG_CONTENT)
    assert all(address in message for address in addresses)
    assert re.search(r"not found, .*404", message)
    assert "unreachable, " in message


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/closed", HUB])
def test_a_host_that_is_not_there_is_unreachable(host, wanted, address, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fails(replace(wanted, addresses=(address,)), Failure.UNREACHABLE)


@pytest.mark.parametrize("variable", ["VANDKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_forbids_every_request(host, wanted, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert f"got {variable}=1, which forbids downloads" in fails(wanted, Failure.OFFLINE)
    assert not host.requests
    monkeypatch.setenv(variable, "0")
    download(wanted)


Usage = namedtuple("Usage", "total used free")


def test_room_is_asked_for_before_anything_is_fetched(host, wanted, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, SPARE_BYTES + 4999))
    assert "GB free in" in fails(wanted, Failure.NO_ROOM)
    assert not host.requests
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, SPARE_BYTES + 5000))
    download(wanted)


def test_a_disk_that_fills_up_meanwhile_is_no_room(host, wanted, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.weights.download.http_get", full)
    fails(wanted, Failure.NO_ROOM)


def test_the_proxy_of_the_environment_is_asked(host, wanted, monkeypatch):
    monkeypatch.setenv("http_proxy", host.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    getattr(huggingface_hub, "close_session", lambda: None)()
    download(replace(wanted, addresses=("http://weights.invalid/net.pt",)))
    assert host.requests[0][0] == "http://weights.invalid/net.pt"


def test_redirects_are_followed(host, wanted):
    host.files["/moved"] = b""
    host.script = [f"redirect {host.address}/net.pt"]
    download(replace(wanted, addresses=(f"{host.address}/moved",)))
    assert wanted.path.read_bytes() == CONTENT


def test_two_processes_fetch_one_file_once(host, wanted):
    start = multiprocessing.get_context("fork")
    host.script = ["slow"]
    both = [start.Process(target=download, args=(wanted,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(host.requests) == 1
    assert [path.name for path in wanted.path.parent.iterdir()] == ["net.pt"]
