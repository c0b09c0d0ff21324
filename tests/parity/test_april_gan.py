"""ClipAdapter against a slow re-derivation of the published method, from the weights alone.

Nothing here uses the model's own forward passes: transformers are written out head by head, maps token by
token, interpolation corner by corner. The order of operations is that of the published code.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.clip.backbone import load_backbone
from models.clip.text import PromptEnsemble
from models.clip_adapter.checkpoint import load_adapter
from models.clip_adapter.model import ClipAdapter
from tests.support.clip_stand_ins import PROMPTS, random_clip, random_images, write_config

State = Mapping[str, Tensor]
GELU = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
}


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def block(x: Tensor, state: State, name: str, heads: int, activation: str, causal: bool) -> Tensor:
    """One residual attention block on (N, C) tokens, head by head."""
    queries, keys, values = (
        layer_norm(x, state, f"{name}.ln_1") @ state[f"{name}.attn.in_proj_weight"].T
        + state[f"{name}.attn.in_proj_bias"]
    ).chunk(3, dim=1)
    mixed = []
    for q, k, v in zip(queries.chunk(heads, 1), keys.chunk(heads, 1), values.chunk(heads, 1), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[1])
        if causal:
            scores = scores + torch.full_like(scores, -torch.inf).triu(1)
        mixed.append(scores.softmax(dim=1) @ v)
    x = x + torch.cat(mixed, 1) @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    hidden = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
    return x + GELU[activation](hidden) @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]


def slow_vit(
    image: Tensor, state: State, stages: Sequence[int], heads: int, activation: str
) -> tuple[Tensor, list[Tensor]]:
    """One image (3, S, S) to its embedding (D,) and the raw patch tokens (N, C) after each of the blocks."""
    kernel = state["visual.conv1.weight"]
    side = kernel.shape[-1]
    patches = image.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    x = torch.cat([state["visual.class_embedding"][None], patches @ kernel.flatten(1).T])
    x = layer_norm(x + state["visual.positional_embedding"], state, "visual.ln_pre")
    kept = []
    for number in range(1, stages[-1] + 1):
        x = block(x, state, f"visual.transformer.resblocks.{number - 1}", heads, activation, causal=False)
        if number in stages:
            kept.append(x[1:])
    return layer_norm(x[0], state, "visual.ln_post") @ state["visual.proj"], kept


def slow_sentence(sentence: str, state: State, heads: int, activation: str) -> Tensor:
    """One sentence to (D,): all 77 places, pooled at the end-of-text token."""
    tokens = open_clip.tokenize([sentence])[0]
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    blocks = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks")}
    for number in range(len(blocks)):
        x = block(x, state, f"transformer.resblocks.{number}", heads, activation, causal=True)
    return layer_norm(x, state, "ln_final")[tokens.argmax()] @ state["text_projection"]


def bicubic(size: int, cells: int) -> np.ndarray:
    """(size, cells) weights of an antialiased bicubic resize: Keys' kernel with a = -0.5, edges renormalised."""
    scale = cells / size
    weights = np.zeros((size, cells))
    for pixel in range(size):
        for cell in range(cells):
            distance = abs(cell + 0.5 - (pixel + 0.5) * scale) / max(scale, 1)
            if distance < 1:
                weights[pixel, cell] = 1.5 * distance**3 - 2.5 * distance**2 + 1
            elif distance < 2:
                weights[pixel, cell] = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return weights / weights.sum(axis=1, keepdims=True)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def slow_text(prompts: PromptEnsemble, category: str, encode: Callable[[str], Tensor]) -> list[Tensor]:
    """Normal and abnormal text vectors: fill states, fill templates, unit length, mean, unit length."""
    vectors = []
    for states in (prompts.normal_states, prompts.anomalous_states):
        sentences = [template.format(state.format(category)) for state in states for template in prompts.templates]
        vectors.append(unit(torch.stack([unit(encode(sentence)) for sentence in sentences]).mean(dim=0)))
    return vectors


def corner_aligned(size: int, cells: int) -> np.ndarray:
    """(size, cells) weights of linear interpolation that puts the first and last pixel on the first and last cell."""
    weights = np.zeros((size, cells))
    for pixel in range(size):
        place = pixel * (cells - 1) / (size - 1)
        left = min(int(place), max(cells - 2, 0))
        weights[pixel, left] += 1 - (place - left)
        if cells > 1:
            weights[pixel, left + 1] += place - left
    return weights


def upsample(cells: np.ndarray, size: int) -> np.ndarray:
    return corner_aligned(size, cells.shape[0]) @ cells @ corner_aligned(size, cells.shape[1]).T


def slow_zero_shot(
    embedding: Tensor, stages: Sequence[Tensor], adapter: State, text: list[Tensor], size: int
) -> tuple[float, np.ndarray]:
    """Image score (Eq. 1) and map (Eq. 3), token by token."""
    logits = [100 * float(unit(embedding) @ vector) for vector in text]
    score = 1 / (1 + math.exp(logits[0] - logits[1]))
    total = np.zeros((size, size))
    for number, tokens in enumerate(stages):
        grid = math.isqrt(len(tokens))
        planes = np.zeros((2, grid, grid))
        for place, token in enumerate(tokens):
            adapted = unit(adapter[f"fc.{number}.weight"] @ token + adapter[f"fc.{number}.bias"])
            planes[:, place // grid, place % grid] = [100 * float(adapted @ vector) for vector in text]
        normal, abnormal = (upsample(plane, size) for plane in planes)
        total += 1 / (1 + np.exp(normal - abnormal))
    return score, total


def slow_memory(stages: Sequence[Tensor], references: Sequence[Sequence[Tensor]], size: int) -> np.ndarray:
    """Sum over stages of min over all reference tokens of 1 - cosine (Eq. 4), from the whole matrix in float64."""
    total = np.zeros((size, size))
    for number, tokens in enumerate(stages):
        bank = torch.cat([reference[number] for reference in references]).double()
        cosine = (tokens.double() @ bank.T) / (tokens.double().norm(dim=1)[:, None] * bank.norm(dim=1)[None])
        grid = math.isqrt(len(tokens))
        total += upsample((1 - cosine).amin(dim=1).reshape(grid, grid).numpy(), size)
    return total


def authors_file(folder, widths: Sequence[int], dim: int):
    """Adapters written as the authors' training writes them."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    for number, width in enumerate(widths):
        state[f"fc.{number}.weight"] = torch.randn(dim, width, generator=generator) / width**0.5
        state[f"fc.{number}.bias"] = torch.randn(dim, generator=generator) / width**0.5
    torch.save({"trainable_linearlayer": state}, folder / "epoch_3.pth")
    return folder / "epoch_3.pth", state


def double(state: State) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}


def assert_prediction(prediction, score: float, anomaly_map: np.ndarray) -> None:
    assert_close(prediction.anomaly_maps[0], torch.from_numpy(anomaly_map).float(), rtol=0, atol=1e-4)
    assert_close(prediction.image_scores[0], torch.tensor(score, dtype=torch.float32), rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_vit_zero_shot_and_few_shot(activation, tmp_path):
    """Native weights of 32 px from a file, used at 48 px: the position grid grows from 4 x 4 to 6 x 6."""
    native = random_clip("vit", 32, activation, seed=2).state_dict()
    torch.save(native, tmp_path / "clip.pt")
    backbone = load_backbone(
        str(write_config(tmp_path, "vit")), weights=str(tmp_path / "clip.pt"), image_size=48, stages=[1, 2, 4],
        activation=activation,
    )  # fmt: skip
    path, adapter_state = authors_file(tmp_path, (48, 48, 48), 24)
    model = ClipAdapter(backbone, load_adapter(path)[0], PROMPTS)

    state, adapter = double(native), double(adapter_state)
    class_place, *places = state["visual.positional_embedding"]
    grow = torch.from_numpy(bicubic(6, 4))
    grid = torch.einsum("yv,xu,vuc->yxc", grow, grow, torch.stack(places).reshape(4, 4, -1))
    state["visual.positional_embedding"] = torch.cat([class_place[None], grid.flatten(0, 1)])
    text = slow_text(PROMPTS, "metal_nut", lambda sentence: slow_sentence(sentence, state, 2, activation))
    image, references = random_images(1, 48)[0], random_images(2, 48, seed=1)
    embedding, stages = slow_vit(image.double(), state, (1, 2, 4), 2, activation)
    seen = [slow_vit(reference.double(), state, (1, 2, 4), 2, activation)[1] for reference in references]
    score, zero_shot = slow_zero_shot(embedding, stages, adapter, text, 48)

    assert zero_shot.std() > 0.02  # a map to speak of
    assert_prediction(model.predict(image[None], ["metal_nut"]), score, zero_shot)
    model.fit(references, "metal_nut")
    prediction = model.predict(image[None], ["metal_nut"])
    combined = zero_shot + slow_memory(stages, seen, 48)
    assert_close(prediction.anomaly_maps[0], torch.from_numpy(combined).float(), rtol=0, atol=1e-4)
    assert_close(prediction.scalars["text_score"][0].item(), score, rtol=0, atol=1e-4)
    assert_close(prediction.scalars["map_max"][0].item(), float(combined.max()), rtol=0, atol=1e-4)

    maxima = []
    for number, reference in enumerate(references):
        own_embedding, own = slow_vit(reference.double(), state, (1, 2, 4), 2, activation)
        _, own_map = slow_zero_shot(own_embedding, own, adapter, text, 48)
        maxima.append(float((own_map + slow_memory(own, [seen[1 - number]], 48)).max()))
    mu, m = sum(maxima) / 2, float(combined.max())
    assert_close(prediction.image_scores[0].item(), (score + m**4 / (m**4 + mu**4)) / 2, rtol=0, atol=1e-4)


def test_resnet_zero_shot_and_few_shot(tmp_path):
    """Layers seen by hooks in float64; the attention pool written out head by head."""
    clip = random_clip("resnet", 96, seed=2)
    backbone = load_backbone(
        str(write_config(tmp_path, "resnet")), weights=_saved(clip, tmp_path), image_size=96, stages=[1, 2, 3, 4],
        activation="gelu",
    )  # fmt: skip
    path, adapter_state = authors_file(tmp_path, (32, 64, 128, 256), 24)
    model = ClipAdapter(backbone, load_adapter(path)[0], PROMPTS)
    clip = clip.double()
    state, adapter = double(clip.state_dict()), double(adapter_state)
    text = slow_text(PROMPTS, "nut", lambda sentence: slow_sentence(sentence, state, 2, "gelu"))

    def slow_resnet(image: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept: list[Tensor] = []
        layers = (clip.visual.layer1, clip.visual.layer2, clip.visual.layer3, clip.visual.layer4)
        hooks = [layer.register_forward_hook(lambda _, __, output: kept.append(output[0])) for layer in layers]
        with torch.no_grad():
            clip.visual(image[None].double())
        for hook in hooks:
            hook.remove()
        return pooled(kept[-1]), [plane.flatten(1).T for plane in kept]

    def pooled(plane: Tensor) -> Tensor:
        tokens = plane.flatten(1).T
        name = "visual.attnpool"
        tokens = torch.cat([tokens.mean(dim=0)[None], tokens]) + state[f"{name}.positional_embedding"]
        q, k, v = (tokens @ state[f"{name}.{p}_proj.weight"].T + state[f"{name}.{p}_proj.bias"] for p in "qkv")
        heads = []
        for a, b, c in zip(q.chunk(4, 1), k.chunk(4, 1), v.chunk(4, 1), strict=True):
            heads.append((a[:1] @ b.T / math.sqrt(a.shape[1])).softmax(dim=1) @ c)
        return (torch.cat(heads, 1) @ state[f"{name}.c_proj.weight"].T + state[f"{name}.c_proj.bias"])[0]

    image, references = random_images(1, 96)[0], random_images(2, 96, seed=1)
    embedding, stages = slow_resnet(image)
    score, zero_shot = slow_zero_shot(embedding, stages, adapter, text, 96)
    assert [len(tokens) for tokens in stages] == [576, 144, 36, 9]
    assert_prediction(model.predict(image[None], ["nut"]), score, zero_shot)
    model.fit(references, "nut")
    combined = zero_shot + slow_memory(stages, [slow_resnet(reference)[1] for reference in references], 96)
    got = model.predict(image[None], ["nut"]).anomaly_maps[0]
    assert_close(got, torch.from_numpy(combined).float(), rtol=0, atol=1e-4)


def _saved(clip: open_clip.CLIP, folder) -> str:
    torch.save(clip.state_dict(), folder / "clip.pt")
    return str(folder / "clip.pt")


@pytest.mark.slow
def test_the_published_architecture_at_its_published_size(tmp_path):
    """ViT-L-14-336 at 518 px with random weights: shapes, and map and score as derived."""
    settings = {"image_size": 518, "stages": [6, 12, 18, 24], "activation": "gelu"}
    backbone = load_backbone("ViT-L-14-336", weights="random:0", **settings)
    assert sum(parameter.numel() for parameter in backbone.clip.parameters()) > 427_000_000
    path, adapter_state = authors_file(tmp_path, backbone.stage_widths, backbone.embed_dim)
    adapter, _ = load_adapter(path)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 3_148_800
    prompts = PromptEnsemble(["{}", "flawless {}"], ["{} with damage"], ["a photo of a {}."])
    model = ClipAdapter(backbone, adapter, prompts)
    image = random_images(1, 518)

    features = backbone.encode_image(image)
    assert [tuple(stage.shape) for stage in features.stages] == [(1, 1369, 1024)] * 4
    assert features.grids == ((37, 37),) * 4
    assert features.embedding.shape == (1, 768)
    prediction = model.predict(image, ["metal_nut"])
    assert prediction.anomaly_maps.shape == (1, 518, 518)

    with torch.no_grad():
        state = backbone.clip.state_dict()
        text = slow_text(prompts, "metal_nut", lambda sentence: slow_sentence(sentence, state, 12, "gelu"))
        embedding, stages = slow_vit(image[0], state, settings["stages"], 16, "gelu")
        for fast, slow in zip(features.stages, stages, strict=True):
            assert_close(fast[0], slow, rtol=1e-3, atol=1e-4)
        score, zero_shot = slow_zero_shot(embedding, stages, adapter_state, text, 518)
    assert_prediction(prediction, score, zero_shot)
