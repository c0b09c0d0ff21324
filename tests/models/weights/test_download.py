"""Downloads from a loopback server that plays the host, well and badly: each failure by name, with what to do."""

import hashlib
import multiprocessing
import random
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest

from models.disk import SPARE_BYTES
from models.weights import transfer
from models.weights.download import Wanted, download, part_of
from models.weights.failures import REMEDIES, DownloadError, Failure
from models.weights.transfer import Patience
from tests.support.loopback_host import Host

CONTENT = random.Random(0).randbytes(5000)
OTHER = random.Random(1).randbytes(5000)
QUICK = Patience(timeout_s=0.4, tries=3, first_wait_s=0.01, longest_wait_s=0.02)
VARIABLES = ("VANDKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture
def host(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    host = Host()
    host.files["/net.pt"] = CONTENT
    yield host
    host.close()


@pytest.fixture
def wanted(host, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Wanted("net", (f"{host.address}/net.pt",), tmp_path / "shelf/net.pt", len(CONTENT), digest)


def fails(wanted, failure, patience=QUICK):
    with pytest.raises(DownloadError) as caught:
        download(wanted, patience, show=False)
    assert caught.value.failure is failure
    message = str(caught.value)
    assert str(failure) in message or failure is Failure.OFFLINE
    assert REMEDIES[failure] in message
    assert f"or put the file at {wanted.path} by hand (5,000 bytes, sha256 {wanted.sha256})" in message
    assert not wanted.path.exists()
    return message


def test_a_file_is_fetched_whole_and_nothing_else_is_left(host, wanted):
    assert download(wanted, QUICK) == wanted.path
    assert wanted.path.read_bytes() == CONTENT
    assert [path.name for path in wanted.path.parent.iterdir()] == ["net.pt"]
    download(wanted, QUICK)
    assert len(host.requests) == 1


@pytest.mark.parametrize("cut", ["cut 3000", "chunked cut"])
def test_an_interrupted_download_continues_by_itself(host, wanted, cut):
    host.script = [cut]
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=3000-" if cut == "cut 3000" else "bytes=100-"]


def test_an_interrupted_download_is_kept_and_the_next_run_continues_it(host, wanted):
    host.script = ["cut 1000"] * 3
    message = fails(wanted, Failure.ENDED_EARLY)
    assert "of 5,000 bytes arrived (3,000 bytes are kept)" in message
    assert part_of(wanted.path).read_bytes() == CONTENT[:3000]
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert [headers.get("If-Range") for _, headers in host.requests] == [None, *['"one"'] * 3]


def test_a_killed_process_leaves_a_part_that_is_continued(host, wanted):
    host.script = ["stall 2000"]
    process = multiprocessing.get_context("fork").Process(target=download, args=(wanted, replace(QUICK, timeout_s=20)))
    process.start()
    part = part_of(wanted.path)
    while not part.is_file() or part.stat().st_size < 2000:
        process.join(0.01)
        assert process.is_alive()
    process.kill()
    process.join()
    assert part.read_bytes() == CONTENT[:2000]
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=2000-"]


def test_a_range_that_the_host_ignores_starts_over(host, wanted):
    host.script = ["cut 3000", "no range"]
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=3000-"]


@pytest.mark.parametrize("answer", ["wrong range", "status 416"])
def test_a_range_that_does_not_fit_starts_over(host, wanted, answer):
    host.script = ["cut 3000", answer]
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, "bytes=3000-", None]


def test_a_file_that_changed_meanwhile_comes_whole(host, wanted):
    host.script = ["cut 3000"] * 3
    blind = replace(wanted, sha256=None)
    with pytest.raises(DownloadError):
        download(blind, replace(QUICK, tries=1))
    host.script, host.etag, host.files["/net.pt"] = [], '"two"', OTHER
    download(blind, QUICK)
    assert wanted.path.read_bytes() == OTHER


def test_without_a_digest_nothing_is_pieced_together_from_unmarked_versions(host, wanted):
    host.etag, host.script = "", ["cut 3000"]
    download(replace(wanted, sha256=None), QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == [None, None]


def test_a_part_of_other_content_is_found_out_and_fetched_anew(host, wanted):
    wanted.path.parent.mkdir()
    part_of(wanted.path).write_bytes(OTHER[:4000])
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert host.ranges() == ["bytes=4000-", None]


@pytest.mark.parametrize("held", [CONTENT, CONTENT + b"more"])
def test_a_part_of_full_size_needs_no_or_a_new_download(host, wanted, held):
    wanted.path.parent.mkdir()
    part_of(wanted.path).write_bytes(held)
    download(wanted, QUICK)
    assert wanted.path.read_bytes() == CONTENT
    assert len(host.requests) == (0 if held == CONTENT else 1)


def test_tampered_content_is_refused_deleted_and_named(host, wanted):
    host.script = ["tampered"] * 9
    message = fails(wanted, Failure.WRONG_CONTENT)
    assert f"expected the digest {wanted.sha256}, got " in message
    assert "net.pt.part is deleted" in message
    assert list(wanted.path.parent.iterdir()) == []
    assert len(host.requests) == 1, "asking again would bring the same"


def test_a_git_digest_is_enforced_too(host, wanted):
    blob = hashlib.sha1(b"blob 5000\0" + CONTENT).hexdigest()
    marked = replace(wanted, sha256=None, git_blob=blob)
    host.script = ["tampered"]
    with pytest.raises(DownloadError, match=f"digest {blob}"):
        download(marked, QUICK)
    assert download(marked, QUICK).read_bytes() == CONTENT


def test_a_login_page_in_place_of_the_file_is_named(host, wanted):
    host.script = ["page"]
    assert "what came is a web page" in fails(wanted, Failure.WRONG_CONTENT)


def test_a_file_truncated_at_the_host_is_refused_before_it_is_fetched(host, wanted):
    host.script = ["short"]
    assert "expected 5,000 bytes, the host offers 2,500" in fails(wanted, Failure.WRONG_SIZE)


@pytest.mark.parametrize(
    ("status", "failure", "requests"),
    [(404, Failure.NOT_FOUND, 1), (410, Failure.NOT_FOUND, 1), (401, Failure.REFUSED, 1), (403, Failure.REFUSED, 1),
     (500, Failure.SERVER, 3), (503, Failure.SERVER, 3), (429, Failure.SERVER, 3)],
)  # fmt: skip
def test_each_status_has_its_name_and_only_passing_ones_are_tried_again(host, wanted, status, failure, requests):
    host.script = [f"status {status}"] * 9
    assert f"HTTP {status}" in fails(wanted, failure)
    assert len(host.requests) == requests


def test_a_host_that_stalls_is_given_up_after_the_time_out(host, wanted):
    host.script = ["stall 100"] * 3
    message = fails(wanted, Failure.SLOW, replace(QUICK, timeout_s=0.1))
    assert "nothing arrived for the whole time-out (300 bytes are kept)" in message


def test_a_host_that_trickles_is_given_up_too(host, wanted):
    host.script = ["trickle"] * 2
    slow = replace(QUICK, tries=2, least_speed=10_000, speed_window_s=0.15)
    assert "bytes a second over" in fails(wanted, Failure.SLOW, slow)


def test_progress_begins_the_count_of_tries_anew(host, wanted, monkeypatch):
    monkeypatch.setattr("models.weights.download.PROGRESS_BYTES", 500)
    host.script = ["cut 900"] * 5
    download(wanted, replace(QUICK, tries=2))
    assert wanted.path.read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn_and_continue_what_has_arrived(host, wanted):
    mirror = Host()
    mirror.files["/copy"] = CONTENT
    host.script = ["cut 1000", "status 404"]
    try:
        download(replace(wanted, addresses=(*wanted.addresses, f"{mirror.address}/copy")), QUICK)
        assert wanted.path.read_bytes() == CONTENT
        assert mirror.ranges() == ["bytes=1000-"]
    finally:
        mirror.close()


def test_when_all_mirrors_fail_each_is_named(host, wanted):
    addresses = (*wanted.addresses, f"{host.address}/gone", "http://127.0.0.1:9/closed")
    host.script = ["tampered"]
    message = fails(replace(wanted, addresses=addresses), Failure.WRONG_CONTENT)
    assert all(address in message for address in addresses)
    assert "not found, HTTP 404" in message
    assert "unreachable, " in message


def test_a_host_that_is_not_there_is_unreachable(host, wanted):
    fails(replace(wanted, addresses=("http://127.0.0.1:9/closed",)), Failure.UNREACHABLE)


@pytest.mark.parametrize("variable", ["VANDKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_forbids_every_request(host, wanted, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert f"got {variable}=1, which forbids downloads" in fails(wanted, Failure.OFFLINE)
    assert not host.requests
    monkeypatch.setenv(variable, "0")
    download(wanted, QUICK)


Usage = namedtuple("Usage", "total used free")


def test_room_is_asked_for_before_anything_is_fetched(host, wanted, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, SPARE_BYTES + 4999))
    assert "GB free in" in fails(wanted, Failure.NO_ROOM)
    assert not host.requests
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, SPARE_BYTES + 5000))
    download(wanted, QUICK)


def test_room_is_asked_for_by_what_the_host_says_where_the_size_is_not_known(host, wanted, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, SPARE_BYTES + 4999))
    with pytest.raises(DownloadError, match="no room"):
        download(replace(wanted, size=None), QUICK)
    assert not part_of(wanted.path).exists()


def test_the_proxy_of_the_environment_is_asked(host, wanted, monkeypatch):
    monkeypatch.setenv("http_proxy", host.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download(replace(wanted, addresses=("http://weights.invalid/net.pt",)), QUICK)
    assert host.requests[0][0] == "http://weights.invalid/net.pt"


def test_a_mirror_of_hugging_face_answers_in_its_place(host, wanted, monkeypatch):
    host.files["/timm/net/resolve/main/model.safetensors"] = CONTENT
    monkeypatch.setenv("HF_ENDPOINT", host.address + "/")
    address = "https://huggingface.co/timm/net/resolve/main/model.safetensors"
    assert download(replace(wanted, addresses=(address,)), QUICK).read_bytes() == CONTENT


def test_redirects_are_followed_but_never_from_https_to_http(host, wanted):
    host.files["/moved"] = b""
    host.script = [f"redirect {host.address}/net.pt"]
    download(replace(wanted, addresses=(f"{host.address}/moved",)), QUICK)
    assert wanted.path.read_bytes() == CONTENT
    request = transfer.urllib.request.Request("https://safe.invalid/x")
    with pytest.raises(transfer.TransferError, match="from https to http"):
        transfer._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://unsafe.invalid/x")


def test_two_processes_fetch_one_file_once(host, wanted):
    start = multiprocessing.get_context("fork")
    host.script = ["trickle"]
    short = CONTENT[:20]
    host.files["/net.pt"] = short
    small = replace(wanted, size=20, sha256=hashlib.sha256(short).hexdigest())
    both = [start.Process(target=download, args=(small, replace(QUICK, timeout_s=5), False)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(host.requests) == 1
    assert [path.name for path in wanted.path.parent.iterdir()] == ["net.pt"]
