"""The weights catalogue: what it lists, what it verifies, what it says when something is wrong."""

import hashlib
import os
from pathlib import Path

import pytest
import yaml

from models.errors import ModelInputError
from models.weights import __main__ as command
from models.weights import registry
from models.weights.digest import sha256_of
from models.weights.missing import refuse_missing

CONTENT = b"some weights " * 100


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A catalogue of its own, with one shipped and two fetched files."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small/a.safetensors").write_bytes(CONTENT)
    (tmp_path / "remote.pt").write_bytes(CONTENT)
    blob = hashlib.sha1(b"blob 1300\0" + CONTENT).hexdigest()
    (tmp_path / "catalogue.yaml").write_text(
        f"""# A comment that must survive.
small_a:
  what: shipped
  file: small/a.safetensors
  size: {len(CONTENT)}
  sha256: {hashlib.sha256(CONTENT).hexdigest()}
  licence: MIT
  source: here

remote:
  what: fetched
  url: {(tmp_path / "remote.pt").as_uri()}
  sha256: {hashlib.sha256(CONTENT).hexdigest()}
  licence: MIT
  source: there

by_blob:
  what: fetched, known to git
  url: {(tmp_path / "remote.pt").as_uri()}
  git_blob: {blob}
  licence: MIT
  source: there

unrecorded:
  what: shipped, never recorded
  file: small/a.safetensors
  size: null
  sha256: null
  licence: MIT
  source: here
"""
    )
    monkeypatch.setattr(registry, "CATALOGUE", tmp_path / "catalogue.yaml")
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "fetched"))
    return tmp_path


def test_a_shipped_file_is_verified_and_found(shelf):
    assert registry.weights_path("small_a") == shelf / "small/a.safetensors"
    assert registry.find_weights("small_a") == shelf / "small/a.safetensors"


def test_a_path_is_taken_as_it_is(shelf):
    assert registry.find_weights(shelf / "remote.pt") == shelf / "remote.pt"
    assert registry.find_weights(str(shelf / "remote.pt")) == shelf / "remote.pt"


def test_a_changed_file_is_refused(shelf):
    (shelf / "small/a.safetensors").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ModelInputError, match=r"small/a\.safetensors .* digest .*git checkout"):
        registry.weights_path("small_a")


def test_a_file_changed_after_it_was_verified_is_refused(shelf):
    path = registry.weights_path("small_a")
    status = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with pytest.raises(ModelInputError, match="digest"):
        registry.weights_path("small_a")


def test_a_file_is_hashed_once_while_it_stays_the_same(shelf, monkeypatch):
    registry.weights_path("small_a")
    monkeypatch.setattr(registry, "_sha256", lambda _: pytest.fail("hashed again"))
    registry.weights_path("small_a")


@pytest.mark.parametrize(("content", "kind"), [(CONTENT[:50], "is truncated"), (CONTENT + b"x", "was replaced")])
def test_a_file_of_another_size_is_refused(shelf, content, kind):
    (shelf / "small/a.safetensors").write_bytes(content)
    with pytest.raises(ModelInputError, match=rf"1,300 bytes, got {len(content):,}: the file {kind}"):
        registry.weights_path("small_a")


def test_a_missing_file_says_what_to_do(shelf):
    with pytest.raises(ModelInputError, match=r"remote\.pt, found no file; fetch it with .*--fetch remote"):
        registry.weights_path("remote")
    (shelf / "small/a.safetensors").unlink()
    with pytest.raises(ModelInputError, match="found no file; it ships with the project: restore it"):
        registry.weights_path("small_a")


def test_an_unknown_name_is_met_with_the_nearest(shelf):
    with pytest.raises(ModelInputError, match="did you mean 'remote'"):
        registry.weights_path("remot")
    with pytest.raises(
        ModelInputError, match="which is neither; check the path, or the catalogue has: small_a, remote"
    ):
        registry.find_weights("/no/such/file.pt")


def test_an_unrecorded_file_is_not_believed(shelf):
    with pytest.raises(ModelInputError, match="--record unrecorded"):
        registry.weights_path("unrecorded")


@pytest.mark.parametrize("name", ["remote", "by_blob"])
def test_fetch_downloads_and_verifies(shelf, name):
    path = registry.fetch(name)
    assert path == shelf / f"fetched/{name}.pt"
    assert path.read_bytes() == CONTENT
    assert registry.weights_path(name) == path


@pytest.mark.parametrize("name", ["remote", "by_blob"])
def test_fetch_keeps_nothing_that_is_not_what_was_recorded(shelf, name):
    (shelf / "remote.pt").write_bytes(b"something else")
    with pytest.raises(ModelInputError, match="digest"):
        registry.fetch(name)
    assert list((shelf / "fetched").iterdir()) == []


def test_fetch_says_when_the_address_does_not_answer(shelf):
    (shelf / "remote.pt").unlink()
    with pytest.raises(ModelInputError, match="to answer"):
        registry.fetch("remote")
    with pytest.raises(ModelInputError, match="can be fetched: remote, by_blob"):
        registry.fetch("small_a")


def test_record_writes_size_and_digest_and_leaves_the_rest(shelf):
    before = (shelf / "catalogue.yaml").read_text()
    (shelf / "small/a.safetensors").write_bytes(b"retrained")
    assert registry.record("small") == ["small_a"]
    after = (shelf / "catalogue.yaml").read_text()
    entry = yaml.safe_load(after)["small_a"]
    assert (entry["size"], entry["sha256"]) == (9, hashlib.sha256(b"retrained").hexdigest())
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [a.split(":")[0] for a, _ in changed] == ["  size", "  sha256"]
    assert registry.weights_path("small_a").read_bytes() == b"retrained"
    registry.record("unrecorded")
    assert registry.weights_path("unrecorded")


def test_the_command_lists_records_and_explains(shelf, capsys):
    registry.main([])
    listing = capsys.readouterr().out
    assert "small_a" in listing
    assert "not here" in listing.splitlines()[1]
    registry.main(["--record", "small"])
    assert "recorded: small_a" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        registry.main(["--fetch", "nothing"])
    assert stop.value.code == 2
    assert "error: expected the name of a file to fetch" in capsys.readouterr().err


def test_a_fetched_file_that_was_verified_is_not_hashed_by_later_processes(shelf, monkeypatch):
    path = registry.fetch("remote")
    monkeypatch.setattr(registry, "_verified", set())  # as a process begins
    with monkeypatch.context() as patched:
        patched.setattr(registry, "_sha256", lambda _: pytest.fail("hashed again"))
        assert registry.weights_path("remote") == path
    os.utime(path, ns=(0, 0))
    monkeypatch.setattr(registry, "_sha256", lambda _: "another")
    with pytest.raises(ModelInputError, match="content was changed"):
        registry.weights_path("remote")


@pytest.mark.parametrize("change", ["inode", "digest", "size"])
def test_what_was_verified_counts_for_the_same_file_only(shelf, monkeypatch, change):
    path = registry.fetch("remote")
    monkeypatch.setattr(registry, "_verified", set())
    status = path.stat()
    if change == "inode":
        (shelf / "copy").write_bytes(CONTENT)
        (shelf / "copy").replace(path)
    elif change == "size":
        path.write_bytes(CONTENT + b"more")
    else:
        text = (shelf / "catalogue.yaml").read_text()
        (shelf / "catalogue.yaml").write_text(text.replace(hashlib.sha256(CONTENT).hexdigest(), "a" * 64))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    hashed = []
    monkeypatch.setattr(registry, "_sha256", lambda file: hashed.append(file) or sha256_of(file))
    if change == "inode":
        registry.weights_path("remote")
    else:
        with pytest.raises(ModelInputError):
            registry.weights_path("remote")
    assert hashed == [path]


def test_a_record_of_what_was_verified_that_cannot_be_read_or_written_is_done_without(shelf, monkeypatch):
    path = registry.fetch("remote")
    (shelf / "fetched/verified.json").write_text("[1, 2")
    monkeypatch.setattr(registry, "_verified", set())
    assert registry.weights_path("remote") == path
    (shelf / "fetched/verified.json").unlink()
    (shelf / "fetched/verified.json").mkdir()
    monkeypatch.setattr(registry, "_verified", set())
    assert registry.weights_path("remote") == path


def test_check_hashes_anew(shelf, capsys):
    path = registry.fetch("remote")
    status = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert command.main(["--list", "remote"]) == 0
    assert command.main(["--check", "remote"]) == 2
    assert "content was changed" in capsys.readouterr().err


def test_missing_files_are_named_at_once_with_the_smallest_group_that_fetches_them(monkeypatch, tmp_path):
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    parts = {
        "generator": {"weights": "groundingdino_swint_ogc", "text": "bert_base_uncased_vocabulary"},
        "other": "tiny",
    }
    with pytest.raises(ModelInputError) as refused:
        refuse_missing({**parts, "refiner": ["sam_vit_h"]})
    message = str(refused.value)
    assert "groundingdino_swint_ogc, bert_base_uncased_vocabulary, sam_vit_h" in message
    assert "`make weights WEIGHTS=saa_official` fetches them (3.26 GB)" in message
    with pytest.raises(ModelInputError, match="`make weights WEIGHTS=sam_vit_h` fetches it"):
        refuse_missing({"refiner": "sam_vit_h"})
    with pytest.raises(ModelInputError, match='`make weights WEIGHTS="sam_vit_b sam_vit_l"` fetches them'):
        refuse_missing(["sam_vit_b", "sam_vit_l"])
    refuse_missing(["tiny", "tiny_clip", "a name of nothing", None, 3])


def test_the_real_catalogue_is_whole():
    """Every entry says what it is; addresses but one have a digest; every shipped file that is there is as recorded."""
    entries = registry.catalogue()
    assert {"tiny", "tiny_clip", "tiny_adapter", "april_gan_mvtec", "april_gan_visa"} <= entries.keys()
    for entry in entries.values():
        assert entry.what
        assert entry.licence
        assert entry.source
        assert bool(entry.file) != bool(entry.url)
        if entry.url:
            assert entry.sha256 or entry.git_blob or entry.name == "clipseg_rd64_refined"  # learnt on first use
        elif entry.path.is_file():
            assert registry.weights_path(entry.name) == entry.path
