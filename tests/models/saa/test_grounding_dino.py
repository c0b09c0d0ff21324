"""GroundingDINO, part by part against the package's own parts, and whole with small random weights."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from benchmarks.grounding_dino_package import package_twin, quiet
from models.errors import ModelInputError
from models.frozen import whole_float32
from models.saa.generator.base import Proposals
from models.saa.generator.grounding_dino import sampling as grounding_dino_sampling
from models.saa.generator.grounding_dino.encoder import Words, enhance_words, fuse
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import (
    MAX_TOKENS,
    CaptionReader,
    load_reader,
    normalised,
    resized_shape,
    spelling_reader,
    to_pixels,
)
from models.saa.generator.grounding_dino.network import GroundingDino, together
from models.saa.generator.grounding_dino.sampling import FeatureLevels, attend_to_points, split_projection, to_table
from models.saa.generator.grounding_dino.weights import (
    ARCHITECTURES,
    build_network,
    load_grounding_dino,
    random_network,
)

ROOT = Path(__file__).resolve().parents[3]
WORDS = ["defect", "on", "bottle", "broken", "part", "contamination", "white", "crack", "black", "hole", "scratch"]
CAPTIONS = ["defect on bottle", "broken part. contamination. white crack", "hole", "Scratch on unknown things. "]


@pytest.fixture(scope="module")
def reader() -> CaptionReader:
    return spelling_reader(WORDS)


@pytest.fixture(scope="module")
def network() -> GroundingDino:
    return random_network(ARCHITECTURES["small"], 0)


@pytest.fixture
def generator(network: GroundingDino, reader: CaptionReader) -> GroundingDinoGenerator:
    return GroundingDinoGenerator(network, reader, short_side=96, long_side=160)


@pytest.fixture
def exact(reader: CaptionReader) -> GroundingDinoGenerator:
    """In float64, where no two queries tie within rounding."""
    network = random_network(ARCHITECTURES["small"], 0).double()
    return GroundingDinoGenerator(network, reader, short_side=96, long_side=160)


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def assert_same(found: Proposals, expected: Proposals, atol: float = 1e-5) -> None:
    assert_close(found.boxes, expected.boxes, atol=atol, rtol=0)
    assert_close(found.scores, expected.scores, atol=atol, rtol=0)
    assert found.phrases == expected.phrases


# Captions


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Defect", "defect."),
        ("  Black Hole. ", "black hole."),
        ("a. b", "a. b."),
        ("what?", "what?."),
        ("a.b.", "a.b."),
    ],
)
def test_captions_are_lower_case_and_end_with_a_full_stop(given: str, expected: str) -> None:
    assert normalised(given) == expected


@pytest.mark.parametrize("empty", ["", "  ", ".", " . . ", "?", None, 3])
def test_a_caption_without_words_is_refused(empty: str) -> None:
    with pytest.raises(ModelInputError, match="at least one word"):
        normalised(empty)


def test_tokens_see_their_own_phrase(reader: CaptionReader) -> None:
    caption = reader.read("black hole. crack?.")
    #                      CLS black hole . crack ? . SEP
    assert reader.tokenizer.convert_ids_to_tokens(caption.ids) == [
        "[CLS]", "black", "hole", ".", "crack", "?", ".", "[SEP]",
    ]  # fmt: skip
    assert caption.positions.tolist() == [0, 0, 1, 2, 0, 1, 0, 0]
    groups = [0, 1, 1, 1, 2, 2, 3, 4]
    assert caption.phrases.tolist() == [[a == b for b in groups] for a in groups]
    assert caption.words.tolist() == [False, True, True, False, True, False, False, False]


def test_phrases_and_positions_are_the_package_s(reader: CaptionReader) -> None:
    with quiet():
        from groundingdino.models.GroundingDINO.bertwarper import generate_masks_with_special_tokens_and_transfer_map
    for text in [normalised(caption) for caption in CAPTIONS]:
        tokens = reader.tokenizer([text], padding="longest", return_tensors="pt")
        special = reader.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
        phrases, positions, _ = generate_masks_with_special_tokens_and_transfer_map(tokens, special, reader.tokenizer)
        caption = reader.read(text)
        assert list(caption.ids) == tokens["input_ids"][0].tolist()
        assert_close(caption.phrases, phrases[0])
        assert_close(caption.positions, positions[0])


def test_a_long_caption_is_cut_and_says_so(reader: CaptionReader, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        caption = reader.read(normalised("black hole. " * 200))
    assert len(caption.ids) == len(caption.positions) == MAX_TOKENS
    assert caption.phrases.shape == (MAX_TOKENS, MAX_TOKENS)
    assert "602 tokens cut to 256" in caplog.text
    assert int(caption.positions.max()) == 2


def test_phrases_of_boxes(reader: CaptionReader) -> None:
    caption = reader.read("black hole. crack.")
    chosen = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0]]).bool()
    assert reader.phrases(caption, chosen) == ("black hole", "[CLS] hole crack", "")


def test_unknown_words_are_spelt(reader: CaptionReader) -> None:
    caption = reader.read("nut.")
    assert reader.tokenizer.convert_ids_to_tokens(caption.ids) == ["[CLS]", "n", "##u", "##t", ".", "[SEP]"]
    assert reader.phrases(caption, torch.ones(1, 6, dtype=torch.bool)) == ("[CLS] nut [SEP]",)


# Pixels


@pytest.mark.parametrize(("height", "width"), [(40, 400), (8, 8), (800, 1066), (333, 77), (1, 500), (700, 701)])
def test_pixels_are_the_package_s(height: int, width: int) -> None:
    with quiet():
        import groundingdino.datasets.transforms as T
    image = random_image(height, width)
    theirs = T.Compose(
        [
            T.RandomResize([800], max_size=1333),
            T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected, _ = theirs(PIL.Image.fromarray(image.permute(1, 2, 0).numpy()), None)
    assert torch.equal(to_pixels(image, 800, 1333), expected)


def test_the_shape_of_a_photo_and_of_a_hair() -> None:
    assert resized_shape(3000, 4000, 800, 1333) == (800, 1066)
    assert resized_shape(1, 9000, 800, 1333) == (1, 9000)  # where the package asks for a side of 0 and fails
    assert resized_shape(2, 9000, 800, 1333) == (1, 4500)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8),
    ],
)  # fmt: skip
def test_other_images_are_refused(image: Tensor) -> None:
    with pytest.raises(ModelInputError, match="uint8 RGB image"):
        to_pixels(image, 800, 1333)


# Parts of the network, in float64 against the package's


def test_points_far_away_and_on_the_last_edge_are_zero() -> None:
    levels = FeatureLevels.of([(2, 3), (2, 2)], 1, 1, torch.device("cpu"), torch.float32)
    table = to_table(torch.ones(1, 10, 4), levels, torch.zeros(1, levels.table_tokens, 4))
    far = torch.tensor([[1e9, 1e9, 1e9, -1e9, 0, 0], [-1e9, 1e9, -1e9, -1e9, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    found = attend_to_points(far[None], torch.tensor([[[1.0, 1.0]] * 3]), None, table, levels)
    assert_close(found, torch.tensor([[[0.0] * 4, [0.0] * 4, [0.25] * 4]]))  # at a corner a quarter is inside


@pytest.mark.parametrize("captions", [1, 3])
def test_deformable_attention_is_the_package_s(network: GroundingDino, captions: int) -> None:
    torch.manual_seed(1)
    attention = random_network(ARCHITECTURES["small"], 3).transformer.encoder.layers[0].self_attn.double()
    shapes = [(9, 12), (5, 6), (3, 3), (2, 2)]
    levels = FeatureLevels.of(shapes, 8, 4, torch.device("cpu"), torch.float64)
    tokens, queries = torch.randn(2, captions, levels.num_tokens, 256, dtype=torch.float64).unbind()
    centres = levels.centres[None, :, None].expand(captions, -1, 4, -1)
    expected = attention(
        query=queries, value=tokens, reference_points=centres, spatial_shapes=torch.tensor(shapes),
        level_start_index=None,
    )  # fmt: skip
    values = attention.value_proj(tokens)
    table = to_table(values, levels, torch.zeros(captions, levels.table_tokens, 256, dtype=torch.float64))
    projected = F.linear(queries, *split_projection(attention))
    found = attention.output_proj(attend_to_points(projected, levels.centres[None], None, table, levels))
    assert_close(found, expected)


def random_words(lengths: list[int], longest: int, width: int = 256) -> Words:
    used = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    groups = torch.randint(0, 3, (len(lengths), longest)).sort(dim=1).values
    groups = torch.where(used, groups, torch.arange(longest) + 10)
    phrases = groups[:, :, None] == groups[:, None]
    features, positions = torch.randn(2, len(lengths), longest, width, dtype=torch.float64).unbind()
    return Words(features, positions, used, phrases)


def test_fusion_is_the_package_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounding_dino_sampling, "CPU_ROWS", 100)
    torch.manual_seed(2)
    block = random_network(ARCHITECTURES["small"], 4).transformer.encoder.fusion_layers[0].double()
    words = random_words([5, 3], 5)
    image = torch.randn(2, 250, 256, dtype=torch.float64)  # three blocks of rows
    expected_image, expected_words = block(v=image, l=words.features, attention_mask_l=~words.used)
    found_words = fuse(block, found := image.clone(), words.features, words.used)
    assert_close(found, expected_image)
    assert_close(found_words[words.used], expected_words[words.used])


def test_words_of_a_batch_have_their_own_phrases_unlike_in_the_package() -> None:
    torch.manual_seed(4)
    layer = random_network(ARCHITECTURES["small"], 5).transformer.encoder.text_layers[0].double()
    words = random_words([6, 6, 6], 6)
    found = enhance_words(layer, words.features, words)

    def package(chosen: slice) -> Tensor:
        return layer(
            src=words.features[chosen].transpose(0, 1), src_mask=~words.phrases[chosen],
            pos=words.positions[chosen].transpose(0, 1),
        ).transpose(0, 1)  # fmt: skip

    for i in range(3):
        assert_close(found[i : i + 1], package(slice(i, i + 1)))
    mixed = package(slice(0, 3))  # each caption's heads get the masks of several captions
    assert (mixed - found).abs().amax() > 0.01


# The whole, with small random weights


@pytest.fixture(scope="module")
def twin(network: GroundingDino, reader: CaptionReader) -> torch.nn.Module:
    with quiet():
        return package_twin(
            random_network(ARCHITECTURES["small"], 0).double(), ARCHITECTURES["small"], reader.tokenizer
        )


def test_proposals_are_the_package_s(twin: torch.nn.Module, reader: CaptionReader) -> None:
    with quiet():
        from groundingdino.util.inference import predict
    generator = GroundingDinoGenerator(
        random_network(ARCHITECTURES["small"], 0).double(), reader, short_side=96, long_side=160, box_threshold=0
    )
    image = random_image(70, 100)
    pixels = to_pixels(image, 96, 160).double()
    scores = generator.propose(image, CAPTIONS[:1])[0].scores.sort().values
    generator.box_threshold = threshold = scores[29:31].mean().item()  # between two scores, half above
    found = generator.propose(image, CAPTIONS)
    assert len(found[0]) == 30
    for caption, proposals in zip(CAPTIONS, found, strict=True):
        with quiet():
            boxes, scores, phrases = predict(twin, pixels, caption, threshold, 0.1, device="cpu")
        assert_same(proposals, Proposals(boxes.float(), scores.float(), tuple(phrases)))


def test_captions_together_are_captions_one_at_a_time(exact: GroundingDinoGenerator) -> None:
    image = random_image(50, 80)
    together_ = exact.propose(image, CAPTIONS)
    for caption, found in zip(CAPTIONS, together_, strict=True):
        assert len(found) > 0
        assert_same(found, exact.propose(image, [caption])[0])
    in_pairs = GroundingDinoGenerator(
        exact.network, exact.reader, short_side=96, long_side=160, captions_at_once=2
    ).propose(image, CAPTIONS)
    for a, b in zip(together_, in_pairs, strict=True):
        assert_same(a, b)


def test_blocks_of_rows_change_nothing(exact: GroundingDinoGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exact.propose(random_image(50, 80), CAPTIONS[:2])
    monkeypatch.setattr(grounding_dino_sampling, "CPU_ROWS", 37)
    for found, expected in zip(exact.propose(random_image(50, 80), CAPTIONS[:2]), whole, strict=True):
        assert_same(found, expected)


def test_the_backbone_runs_once_per_image_and_bert_once_per_caption(
    generator: GroundingDinoGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reads = [], []
    look, read = generator.network.look, generator.network.read
    monkeypatch.setattr(generator.network, "look", lambda pixels: (looks.append(1), look(pixels))[1])
    monkeypatch.setattr(generator.network, "read", lambda caption: (reads.append(caption.text), read(caption))[1])
    for seed in (0, 1):
        found = generator.propose(random_image(40, 40, seed), ["hole", "crack", "Hole. ", "hole"])
    assert len(looks) == 2
    assert sorted(reads) == ["crack.", "hole."]
    assert_same(found[2], found[0])
    assert_same(found[3], found[0])


def test_thresholds_are_strict_and_may_leave_nothing(network: GroundingDino, reader: CaptionReader) -> None:
    image = random_image(30, 30)
    sizes = {"short_side": 64, "long_side": 64}
    everything = GroundingDinoGenerator(network, reader, box_threshold=0, **sizes).propose(image, ["hole"])[0]
    assert len(everything) == min(60, 8 * 8 + 4 * 4 + 2 * 2 + 1)
    middle = everything.scores.median().item()
    above = GroundingDinoGenerator(network, reader, box_threshold=middle, **sizes).propose(image, ["hole"])[0]
    kept = everything.scores > middle
    assert len(above) == int(kept.sum()) < 60
    assert_close(above.boxes, everything.boxes[kept])
    nothing = GroundingDinoGenerator(network, reader, box_threshold=1, **sizes).propose(image, ["hole", "crack"])
    for found in nothing:
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.phrases == ()
    silent = GroundingDinoGenerator(network, reader, text_threshold=1, **sizes).propose(image, ["hole"])[0]
    assert set(silent.phrases) == {""}


def test_phrase_tokens_score_by_words_alone(network: GroundingDino, reader: CaptionReader) -> None:
    image, sizes = random_image(30, 30), {"short_side": 64, "long_side": 64, "box_threshold": 0}
    found = GroundingDinoGenerator(network, reader, score="phrase_tokens", **sizes).propose(image, ["black hole"])[0]
    caption = reader.read("black hole.")
    looked = network.look(to_pixels(image, 64, 64))
    logits, _ = network.detect(looked, together([caption], [network.read(caption)]))
    assert_close(found.scores, logits[0, :, 1:3].amax(dim=1).sigmoid())
    assert not any("[" in phrase for phrase in found.phrases)
    any_token = GroundingDinoGenerator(network, reader, **sizes).propose(image, ["black hole"])[0]
    assert (any_token.scores >= found.scores).all()
    assert (any_token.scores > found.scores).any()


@pytest.mark.parametrize(("height", "width"), [(40, 400), (3000, 4000), (8, 8), (1, 1), (10, 1500)])
def test_images_of_any_shape(generator: GroundingDinoGenerator, height: int, width: int) -> None:
    grey = random_image(height, width)[:1].expand(3, -1, -1)
    for found in generator.propose(grey, CAPTIONS[:2]):
        assert found.boxes.isfinite().all()
        assert found.scores.isfinite().all()
        assert len(found.phrases) == len(found.scores) == len(found.boxes) > 0


def test_a_constant_image_and_a_long_caption(generator: GroundingDinoGenerator) -> None:
    found = generator.propose(torch.full((3, 50, 50), 128, dtype=torch.uint8), ["crack. " * 200, "hole"])
    assert all(proposals.boxes.isfinite().all() for proposals in found)


def test_no_caption_is_no_proposal_and_a_string_is_refused(generator: GroundingDinoGenerator) -> None:
    assert generator.propose(random_image(20, 20), []) == []
    with pytest.raises(ModelInputError, match="list of captions"):
        generator.propose(random_image(20, 20), "crack")
    with pytest.raises(ModelInputError, match="at least one word"):
        generator.propose(random_image(20, 20), ["crack", " . "])


def test_bfloat16_is_near(network: GroundingDino, reader: CaptionReader) -> None:
    image, sizes = random_image(60, 60), {"short_side": 64, "long_side": 96, "box_threshold": 0}
    exact = GroundingDinoGenerator(network, reader, **sizes).propose(image, ["crack"])[0]
    near = GroundingDinoGenerator(network, reader, precision="bfloat16", **sizes).propose(image, ["crack"])[0]
    assert near.boxes.dtype == near.scores.dtype == torch.float32
    assert abs(near.scores.max() - exact.scores.max()) < 0.1
    assert abs(near.scores.mean() - exact.scores.mean()) < 0.05
    assert not torch.equal(near.scores, exact.scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_follows_the_weights(reader: CaptionReader) -> None:
    sizes = {"short_side": 96, "long_side": 160}
    on_cpu = GroundingDinoGenerator(random_network(ARCHITECTURES["small"], 0), reader, **sizes)
    on_gpu = GroundingDinoGenerator(random_network(ARCHITECTURES["small"], 0), reader, **sizes).cuda()
    with whole_float32():  # as within a model
        found = [each.propose(random_image(60, 60), CAPTIONS) for each in (on_cpu, on_gpu)]
    for a, b in zip(*found, strict=True):
        assert b.boxes.is_cuda
        assert_close(b.scores.cpu().sort().values, a.scores.sort().values, atol=1e-3, rtol=0)


def test_the_generator_is_frozen_and_names_itself(generator: GroundingDinoGenerator) -> None:
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not any(module.training for module in generator.train().modules())
    assert generator.protocol == {
        "generator": "grounding_dino", "generator_weights": "unnamed", "generator_score": "any_token",
        "generator_precision": "float32", "box_threshold": 0.1,
        "text_threshold": 0.1, "generator_short_side": 96, "generator_long_side": 160,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "all"}, {"precision": "float64"}, {"box_threshold": 1.5}, {"text_threshold": -0.1},
        {"short_side": 0}, {"short_side": 900, "long_side": 800}, {"captions_at_once": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(network: GroundingDino, reader: CaptionReader, wrong: dict) -> None:
    with pytest.raises(ModelInputError, match=next(iter(wrong))):
        GroundingDinoGenerator(network, reader, **wrong)


# Files


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return tmp_path / "bert"


def test_a_checkpoint_in_the_official_form_loads(network: GroundingDino, vocabulary: Path, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"module.label_enc.weight": torch.zeros(3), "module.bert.pooler.dense.weight": torch.zeros(2)}
    torch.save({"model": state}, tmp_path / "mine.pth")
    sizes = {"short_side": 64, "long_side": 96}
    loaded = load_grounding_dino(tmp_path / "mine.pth", vocabulary, architecture="small", **sizes)
    by_file = load_grounding_dino(tmp_path / "mine.pth", vocabulary / "vocab.txt", architecture="small", **sizes)
    assert loaded.protocol["generator_weights"] == "mine"
    expected = GroundingDinoGenerator(network, load_reader(vocabulary), **sizes).propose(random_image(20, 30), ["hole"])
    assert len(expected[0]) > 0
    for generator in (loaded, by_file):
        assert_same(generator.propose(random_image(20, 30), ["hole"])[0], expected[0], atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_files_that_do_not_fit_are_refused(network: GroundingDino, vocabulary: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    state = network.state_dict()
    load = {"text_encoder": vocabulary, "architecture": "small"}
    torch.save({"model": {name: state[name] for name in list(state)[:-3]}}, file)
    with pytest.raises(ModelInputError, match=r"mine.pth.*lacks .* and 2 more"):
        load_grounding_dino(file, **load)
    torch.save({"model": state | {"extra.weight": torch.zeros(1)}}, file)
    with pytest.raises(ModelInputError, match=r"has besides extra.weight and 0 more"):
        load_grounding_dino(file, **load)
    torch.save({"model": state | {"feat_map.bias": torch.zeros(3)}}, file)
    with pytest.raises(ModelInputError, match=r"in another shape feat_map.bias"):
        load_grounding_dino(file, **load)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelInputError, match=r"mine.pth.*cannot be read"):
        load_grounding_dino(file, **load)
    with pytest.raises(ModelInputError, match=r"neither"):
        load_grounding_dino(tmp_path / "none.pth", **load)


def test_what_is_missing_is_named(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(ModelInputError, match=r"weights/bert_base_uncased_vocabulary.txt.*make weights"):
        load_grounding_dino()
    with pytest.raises(ModelInputError, match=r"weights/groundingdino_swint_ogc.pth.*make weights"):
        load_grounding_dino(text_encoder=vocabulary)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelInputError, match=r"empty.vocab.txt.*put the vocab.txt of bert-base-uncased"):
        load_grounding_dino(text_encoder=tmp_path / "empty")
    with pytest.raises(ModelInputError, match=r"give the folder that holds the vocab.txt"):
        load_grounding_dino(text_encoder=None)
    (vocabulary / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    with pytest.raises(ModelInputError, match=r"lacks \[CLS\], \[SEP\]"):
        load_grounding_dino(text_encoder=vocabulary)


def test_random_weights_by_seed() -> None:
    make = {"text_encoder": None, "architecture": "small"}
    first, again, other = (load_grounding_dino(f"random:{seed}", **make).network.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["feat_map.weight"], other["feat_map.weight"])
    before = torch.random.get_rng_state()
    random_network(ARCHITECTURES["small"], 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ModelInputError, match="random:0"):
        load_grounding_dino("random:one", **make)
    with pytest.raises(ModelInputError, match="swint_ogc, small"):
        load_grounding_dino("random:0", None, architecture="large")


@pytest.mark.slow
def test_the_package_says_nothing() -> None:
    program = (
        "import warnings; warnings.simplefilter('always')\n"
        "import torch\n"
        "from models.saa.generator.grounding_dino.weights import load_grounding_dino\n"
        "generator = load_grounding_dino('random:0', None, architecture='small', short_side=64, long_side=96)\n"
        "generator.propose(torch.zeros(3, 30, 40, dtype=torch.uint8), ['crack', 'a. ' * 80])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_filters_are_not_left_behind() -> None:
    before = list(warnings.filters)
    build_network(ARCHITECTURES["small"])
    assert warnings.filters == before
