"""The weights catalogue: what it lists, what it verifies, what it says when something is wrong."""

import functools
import hashlib
import os

import pytest
import yaml

from models.errors import ModelInputError
from models.weights import __main__ as command
from models.weights import catalogue, digests
from models.weights.catalogue import refuse_missing
from tests.support.loopback_host import Host

CONTENT = b"some weights " * 100


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A catalogue of its own, with one shipped and two fetched files."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small/a.safetensors").write_bytes(CONTENT)
    host = Host()
    host.files["/remote.pt"] = CONTENT
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
  url: {host.address}/remote.pt
  sha256: {hashlib.sha256(CONTENT).hexdigest()}
  licence: MIT
  source: there

by_blob:
  what: fetched, known to git
  url: {host.address}/remote.pt
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
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue.yaml")
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "fetched"))
    digests._digest.cache_clear()
    yield tmp_path
    host.close()


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed, one after the other, by processes that have just begun."""
    names, hash_file = [], digests._digest.__wrapped__

    def counted(path, *state):
        names.append(path.name)
        return hash_file(path, *state)

    monkeypatch.setattr(digests, "_digest", functools.lru_cache(counted))
    return names


def change(path, content):
    """Another content of the same age."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_shipped_file_is_verified_and_found(shelf):
    assert catalogue.weights_path("small_a") == shelf / "small/a.safetensors"
    assert catalogue.find_weights("small_a") == shelf / "small/a.safetensors"


def test_a_path_is_taken_as_it_is(shelf):
    path = shelf / "catalogue.yaml"
    assert catalogue.find_weights(path) == catalogue.find_weights(str(path)) == path


def test_a_shipped_file_is_hashed_once_by_each_process_while_it_stays_the_same(shelf, hashed):
    path = catalogue.weights_path("small_a")
    catalogue.weights_path("small_a")
    assert hashed == ["a.safetensors"]
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(0, 1_000_000))
    with pytest.raises(ModelInputError, match=r"small/a\.safetensors .* digest .*git checkout"):
        catalogue.weights_path("small_a")


@pytest.mark.parametrize(("content", "kind"), [(CONTENT[:50], "is truncated"), (CONTENT + b"x", "was replaced")])
def test_a_file_of_another_size_is_refused(shelf, content, kind):
    (shelf / "small/a.safetensors").write_bytes(content)
    with pytest.raises(ModelInputError, match=rf"1,300 bytes, got {len(content):,}: the file {kind}"):
        catalogue.weights_path("small_a")


def test_a_missing_file_says_what_to_do(shelf):
    with pytest.raises(
        ModelInputError, match=r"remote\.pt, found no file; fetch it with `make weights WEIGHTS=remote`"
    ):
        catalogue.weights_path("remote")
    (shelf / "small/a.safetensors").unlink()
    with pytest.raises(ModelInputError, match="found no file; it ships with the project: restore it"):
        catalogue.weights_path("small_a")


def test_an_unknown_name_is_met_with_the_nearest(shelf):
    with pytest.raises(ModelInputError, match="did you mean 'remote'"):
        catalogue.weights_path("remot")
    with pytest.raises(
        ModelInputError, match="which is neither; check the path, or the catalogue has: small_a, remote"
    ):
        catalogue.find_weights("/no/such/file.pt")
    with pytest.raises(ModelInputError, match="can be fetched: remote, by_blob"):
        catalogue.fetch("small_a")


def test_an_unrecorded_file_is_not_believed(shelf):
    with pytest.raises(ModelInputError, match="--record unrecorded"):
        catalogue.weights_path("unrecorded")


@pytest.mark.parametrize("name", ["remote", "by_blob"])
def test_fetch_downloads_and_hashes_once(shelf, name, hashed):
    path = catalogue.fetch(name)
    assert path == shelf / f"fetched/{name}.pt"
    assert path.read_bytes() == CONTENT
    assert catalogue.weights_path(name) == path
    digests._digest.cache_clear()  # as another process begins
    assert catalogue.weights_path(name) == path
    assert hashed == [f"{name}.pt.part"]


def test_record_writes_size_and_digest_and_leaves_the_rest(shelf, capsys):
    before = (shelf / "catalogue.yaml").read_text()
    (shelf / "small/a.safetensors").write_bytes(b"retrained")
    assert command.main(["--record", "small"]) == 0
    assert "recorded: small_a" in capsys.readouterr().out
    after = (shelf / "catalogue.yaml").read_text()
    entry = yaml.safe_load(after)["small_a"]
    assert (entry["size"], entry["sha256"]) == (9, hashlib.sha256(b"retrained").hexdigest())
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [a.split(":")[0] for a, _ in changed] == ["  size", "  sha256"]
    assert catalogue.weights_path("small_a").read_bytes() == b"retrained"
    catalogue.record("unrecorded")
    assert catalogue.weights_path("unrecorded")


@pytest.mark.parametrize("changed", ["time", "inode", "digest", "size"])
def test_what_was_verified_counts_for_the_same_file_only(shelf, changed, hashed):
    path = catalogue.fetch("remote")
    digests._digest.cache_clear()
    if changed == "time":
        os.utime(path, ns=(0, 0))
    elif changed == "inode":
        status = path.stat()
        (shelf / "copy").write_bytes(CONTENT[::-1])
        (shelf / "copy").replace(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif changed == "size":
        change(path, CONTENT + b"more")
    else:
        text = (shelf / "catalogue.yaml").read_text()
        (shelf / "catalogue.yaml").write_text(text.replace(hashlib.sha256(CONTENT).hexdigest(), "a" * 64))
    hashed.clear()
    if changed == "time":
        catalogue.weights_path("remote")
        assert hashed == ["remote.pt"]
    else:
        with pytest.raises(ModelInputError, match="digest" if changed != "size" else "was replaced|digest"):
            catalogue.weights_path("remote")


def test_a_record_of_what_was_verified_that_cannot_be_read_or_written_is_done_without(shelf, hashed):
    path = catalogue.fetch("remote")
    record = shelf / "fetched/verified.json"
    record.write_text("[1, 2")
    digests._digest.cache_clear()
    assert catalogue.weights_path("remote") == path
    record.unlink()
    record.mkdir()
    digests._digest.cache_clear()
    assert catalogue.weights_path("remote") == path
    assert hashed == ["remote.pt.part", "remote.pt", "remote.pt"]


def test_check_hashes_anew(shelf, capsys):
    change(catalogue.fetch("remote"), CONTENT[:-1] + b"!")
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
    """Every entry says what it is; most addresses a digest; every shipped file that is there is as recorded."""
    entries = catalogue.catalogue()
    assert {"tiny", "tiny_clip", "tiny_adapter", "april_gan_mvtec", "april_gan_visa"} <= entries.keys()
    for entry in entries.values():
        assert entry.what
        assert entry.licence
        assert entry.source
        assert bool(entry.file) != bool(entry.url)
        if entry.url:
            undigested = entry.name.startswith(("clipseg", "dinov3", "siglip"))  # trusted on first use
            undigested |= entry.url.endswith("/resolve/main/model.safetensors")  # likewise, of transformers' parts
            assert entry.sha256 or entry.git_blob or undigested
        elif entry.path.is_file():
            assert catalogue.weights_path(entry.name) == entry.path
