"""Adapter files: what is written is read, and what is wrong with a file is said."""

import contextlib
import dataclasses
import json
import pickle
import zipfile

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from models.clip_adapter.adapter import AdapterHeader, LinearAdapter, random_adapter
from models.clip_adapter.checkpoint import check_adapter_fits, load_adapter, save_adapter, trained_adapter
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from tests.support.clip_stand_ins import PROMPTS, small_backbone

HEADER = AdapterHeader(
    backbone="vit",
    stages=(1, 2, 4),
    image_size=48,
    activation="gelu",
    trained_on=("synthetic-source", "mvtec"),
    commit="abc123",
    image_threshold=0.25,
    threshold_source="validation categories",
    notes='with "quotes", commas and ü',
)


def saved(tmp_path, **changes):
    adapter = random_adapter((48, 48, 48), 24, seed=1)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapter, dataclasses.replace(HEADER, **changes))
    return path, adapter


def test_round_trip(tmp_path):
    path, adapter = saved(tmp_path)
    loaded, header = load_adapter(path)
    assert header == HEADER == loaded.header
    assert loaded.trained_on == HEADER.trained_on
    assert (loaded.stage_widths, loaded.embed_dim) == ((48, 48, 48), 24)
    assert not loaded.training
    assert_close(loaded.state_dict(), adapter.state_dict(), rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_an_adapter_that_read_deviations_is_refused(tmp_path):
    path, adapter = saved(tmp_path)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file(dict(adapter.state_dict()), path, {**metadata, "deviation": "true"})
    with pytest.raises(ModelInputError, match=r"trained with deviation=true; train it again"):
        load_adapter(path)


def test_a_header_without_threshold(tmp_path):
    path, _ = saved(tmp_path, image_threshold=None, threshold_source="")
    assert load_adapter(path)[1].image_threshold is None


def test_the_adapter_is_one_affine_map_per_stage():
    adapter = random_adapter((3, 5), 4)
    stages = (torch.randn(2, 6, 3), torch.randn(2, 1, 5))
    for output, tokens, linear in zip(adapter(stages), stages, adapter.fc, strict=True):
        assert_close(output, torch.einsum("bnc,dc->bnd", tokens, linear.weight) + linear.bias)
    assert sum(p.numel() for p in LinearAdapter([1024] * 4, 768).parameters()) == 3_148_800  # as published
    with pytest.raises(ValueError, match="zip"):
        adapter(stages[:1])


def published_file(tmp_path, state=None):
    """Written exactly as the authors' training writes it."""
    if state is None:
        state = {}
        for n in range(4):
            state[f"fc.{n}.weight"] = torch.randn(24, 48)
            state[f"fc.{n}.bias"] = torch.randn(24)
    torch.save({"trainable_linearlayer": state}, tmp_path / "epoch_3.pth")
    return tmp_path / "epoch_3.pth", state


def test_the_authors_files_are_read(tmp_path):
    path, state = published_file(tmp_path)
    adapter, header = load_adapter(path)
    assert header is None
    assert adapter.trained_on == ()
    assert_close(dict(adapter.state_dict()), state, rtol=0, atol=0)
    tokens = torch.randn(1, 2, 48)
    assert_close(adapter([tokens] * 4)[3], tokens @ state["fc.3.weight"].T + state["fc.3.bias"])
    assert trained_adapter(path, trained_on=["mvtec"]).trained_on == ("mvtec",)


def test_trained_on_must_not_contradict_the_header(tmp_path):
    path, _ = saved(tmp_path)
    assert trained_adapter(path).trained_on == HEADER.trained_on
    with pytest.raises(ModelInputError, match="its header says synthetic-source, mvtec"):
        trained_adapter(path, trained_on=["visa"])


@pytest.mark.parametrize("keep", [0, 5, 100, 1000, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path, _ = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(ModelInputError, match=r"adapter\.safetensors .*(truncated|do not begin like one)"):
        load_adapter(path)


def test_a_changed_tensor_is_found_out(tmp_path):
    path, _ = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelInputError, match=r"adapter\.safetensors .* changed or damaged"):
        load_adapter(path)


def test_an_appended_byte_is_found_out(tmp_path):
    path, _ = saved(tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelInputError, match="something appended"):
        load_adapter(path)


@pytest.mark.parametrize("content", [b"GIF89a" * 40, b"\x40" + bytes(7) + b"{not json" + b" " * 55])
def test_something_else_is_named(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelInputError, match=r"a\.safetensors to be a safetensors file"):
        load_adapter(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelInputError, match=r"nowhere\.safetensors"):
        load_adapter(tmp_path / "nowhere.safetensors")


def test_a_file_of_something_else_is_named(tmp_path):
    save_file({"fc.0.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelInputError, match="no format"):
        load_adapter(tmp_path / "a.safetensors")


def test_a_header_that_lacks_something_is_named(tmp_path):
    path, adapter = saved(tmp_path)
    save_file(adapter.state_dict(), path, {"format": "vandkit-clip-adapter-1", "backbone": "vit"})
    with pytest.raises(ModelInputError, match="to say 'stages'"):
        load_adapter(path)
    save_file(adapter.state_dict(), path, {"format": "vandkit-clip-adapter-1", "backbone": "vit", "stages": "[1,"})
    with pytest.raises(ModelInputError, match=r"'stages' .* to be JSON"):
        load_adapter(path)


@pytest.mark.parametrize("name", ["fc.1.weight", "fc.0.bias", "fc.3.weight"])
def test_missing_tensors_are_named(tmp_path, name):
    path, state = published_file(tmp_path)
    del state[name]
    path, _ = published_file(tmp_path, state)
    with pytest.raises(ModelInputError, match=rf"epoch_3\.pth.*missing: {name}"):
        load_adapter(path)


def test_tensors_of_odd_shapes_are_named(tmp_path):
    path, state = published_file(tmp_path)
    state["fc.2.bias"] = torch.zeros(23)
    path, _ = published_file(tmp_path, state)
    with pytest.raises(ModelInputError, match=r"epoch_3\.pth.*of one D"):
        load_adapter(path)


@pytest.mark.parametrize("content", [b"", b"x" * 300, None])
def test_a_damaged_pth_is_named(tmp_path, content):
    path, _ = published_file(tmp_path)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(ModelInputError, match=r"epoch_3\.pth to hold the tensors of an adapter, but it cannot be read"):
        load_adapter(path)


def test_a_pth_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (json.dumps, ({},))

    torch.save({"trainable_linearlayer": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelInputError, match=r"evil\.pth"):
        load_adapter(tmp_path / "evil.pth")


RANDOM_BYTES = numpy.random.default_rng(0).bytes(4000)
NO_CHECKPOINTS = {
    "nothing": (b"", "it is empty"),
    "text": (b"https://example.org/adapter\n", "it is text: 'https://example.org/adapter'"),
    "a web page": (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "random bytes": (RANDOM_BYTES, "cannot be read"),
    "a key of pickle's": (b"t" + RANDOM_BYTES, "cannot be read"),
    "a pickle that calls": (pickle.dumps(json.JSONDecoder), "Python objects"),
    "a plain pickle": (pickle.dumps({"a": [1, 2]}), "cannot be read"),
    "half a zip": (b"PK\x03\x04" + RANDOM_BYTES, "cannot be read"),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_a_file_of_any_other_content_is_refused_in_one_paragraph(tmp_path, name, suffix):
    content, said = NO_CHECKPOINTS[name]
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelInputError, match=said if suffix != ".safetensors" else "safetensors file") as caught:
        load_adapter(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_no_byte_of_a_file_makes_anything_but_an_adapter_or_a_refusal(tmp_path):
    """Ours and the authors', each with one byte changed at places drawn by seed, or cut there."""
    rng = numpy.random.default_rng(1)
    ours, _ = saved(tmp_path)
    for path in (ours, published_file(tmp_path)[0]):
        whole = path.read_bytes()
        head = min(len(whole), 1500)  # where names, sizes and types stand
        for place in rng.integers(0, head, 20):
            changed = bytearray(whole)
            changed[place] = rng.integers(256)
            for content in (bytes(changed), whole[:place]):
                path.write_bytes(content)
                with contextlib.suppress(ModelInputError):
                    load_adapter(path)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("a/b.txt", "c")
    with pytest.raises(ModelInputError, match=r"photos\.pth to hold the tensors of an adapter, but it cannot be read"):
        load_adapter(tmp_path / "photos.pth")


@pytest.mark.parametrize("keys", [(), ("model",), ("state_dict",), ("model", "trainable_linearlayer")])
def test_tensors_one_or_two_levels_down_are_found(tmp_path, keys):
    _, state = published_file(tmp_path)
    content = {f"module.{name}": tensor for name, tensor in state.items()}
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "nested.pth")
    adapter, header = load_adapter(tmp_path / "nested.pth")
    assert header is None
    assert_close(adapter.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"optimizer": {"lr": 0.1}, "epoch": 3}, "a dictionary of the keys optimizer, epoch, none of them a tensor"),
        ({"model": {"encoder": {"a": 1}}}, "of the keys encoder"),
        ({}, "a dictionary of nothing"),
        ([torch.zeros(2)], "got a list"),
        (torch.zeros(2), "one tensor without a name"),
        ({"trainable_linearlayer": {"fc.0.weight": torch.full((2, 3), float("nan")), "fc.0.bias": torch.zeros(2)}},
         "expected finite numbers"),
    ],
)  # fmt: skip
def test_a_checkpoint_without_an_adapter_says_what_it_holds(tmp_path, content, said):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelInputError, match=rf"other\.pth.*{said}|{said} in .*other\.pth"):
        load_adapter(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("key", "value"), [("stages", "5"), ("stages", '["a"]'), ("image_size", '"48"'), ("image_threshold", '"high"'),
                       ("trained_on", "{}")],
)  # fmt: skip
def test_a_header_of_other_kinds_is_refused(tmp_path, key, value):
    path, adapter = saved(tmp_path)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file(dict(adapter.state_dict()), path, {**metadata, key: value})
    with pytest.raises(ModelInputError, match=rf"'{key}' in the header of .* to be JSON of its kind"):
        load_adapter(path)


def test_a_whole_clip_instead_of_adapters_is_refused(tmp_path):
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "clip.pth")
    with pytest.raises(ModelInputError, match=r"clip\.pth.*trainable_linearlayer.*found besides: visual\.proj"):
        load_adapter(tmp_path / "clip.pth")


def test_an_adapter_that_fits_is_accepted(tmp_path):
    backbone = small_backbone("vit")
    path, _ = saved(tmp_path, backbone_fingerprint=backbone.fingerprint, image_size=64)
    model = ClipAdapter(backbone, trained_adapter(path), PROMPTS)
    assert model.protocol["adapter_trained_on"] == "synthetic-source, mvtec"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "ViT-B-16"}, "backbone: the backbone has vit, the adapter ViT-B-16"),
        ({"stages": (1, 3, 4)}, r"stages: the backbone has \(1, 2, 4\), the adapter \(1, 3, 4\)"),
        ({"activation": "quick_gelu"}, "activation: the backbone has gelu, the adapter quick_gelu.*set the backbone's"),
        ({"backbone_fingerprint": "0" * 12}, "weights: the backbone has .*, the adapter 000000000000"),
    ],
)
def test_an_adapter_of_another_backbone_is_refused(tmp_path, changes, message):
    path, _ = saved(tmp_path, **changes)
    with pytest.raises(ModelInputError, match=message):
        ClipAdapter(small_backbone("vit"), trained_adapter(path), PROMPTS)


def test_an_adapter_of_other_widths_is_refused_even_without_header():
    with pytest.raises(ModelInputError, match=r"stage widths: the backbone has \(48, 48, 48\), the adapter \(48, 48\)"):
        check_adapter_fits(random_adapter((48, 48), 24), small_backbone("vit"))
    with pytest.raises(ModelInputError, match="embed_dim: the backbone has 24, the adapter 32"):
        check_adapter_fits(random_adapter((48, 48, 48), 32), small_backbone("vit"))


def test_parts_that_are_none_are_refused():
    with pytest.raises(ModelInputError, match="got NoneType and NoneType; choose weights"):
        ClipAdapter(None, None, PROMPTS)


def test_the_written_file_is_plain_safetensors(tmp_path):
    path, adapter = saved(tmp_path)
    assert_close(load_file(path), dict(adapter.state_dict()), rtol=0, atol=0)
