"""Methods that lead today beside their authors' functions: seconds of the processor, and how far outputs lie apart.

    python -m benchmarks.authors musc CHECKOUT_OF_MUSC
    python -m benchmarks.authors subspace_ad CHECKOUT_OF_SUBSPACEAD
    python -m benchmarks.authors anomaly_dino CHECKOUT_OF_ANOMALYDINO CHECKOUT_OF_DINOV2 [--side 672] [--masking always]
    python -m benchmarks.authors april_gan CHECKOUT_OF_APRIL_GAN [--device cuda] [--shots 0 4] [--images 8]

Checkouts of xrli-U/MuSc, CLendering/SubspaceAD, dammsi/AnomalyDINO, facebookresearch/dinov2 and
ByChelsea/VAND-APRIL-GAN are neither kept nor installed here. Both sides run one after the other, on the same random
tokens, or weights and pictures: in this process, but for APRIL-GAN, which brings an open_clip of its own and has a
process to itself. With `--device cuda` seconds are those of the clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import tracks.command.config  # noqa: F401  (registers the schema)
from benchmarks.machine import ROOT, machine
from models.base import AnomalyModel
from models.baselines.anomaly_dino_batch import AnomalyDINOBatch
from models.imagenet.vit import load_vit
from models.maps import top_mean, upsampled
from models.mutual import aggregated, mutual_scores
from models.subspace import Moments


def timed(what: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds of the processor."""
    started = time.process_time()
    return what(), time.process_time() - started


def line(what: str, theirs: float, ours: float, apart: Any = None, largest: Any = None) -> None:
    """Print a row."""
    far = "" if apart is None else f"  difference {float(apart):.1e} of {float(largest):.3g}"
    print(f"{what:48} authors' {theirs:6.2f} s  ours {ours:6.2f} s{far}", flush=True)


def musc(options: argparse.Namespace) -> None:
    """Neighbourhoods and mutual scoring of four images, one stage of a ViT-L/14 at 518 px."""
    sys.path.insert(0, str(options.checkouts[0] / "models/modules"))
    lnamd, msm = import_module("_LNAMD").LNAMD, import_module("_MSM").MSM
    side, width, count, degrees = 37, 1024, 4, (1, 3, 5)
    tokens = torch.randn(1, side * side, width) + 0.7 * torch.randn(count, side * side, width)
    with_class = torch.cat([torch.zeros(count, 1, width), tokens], dim=1)

    def around(degree: int) -> torch.Tensor:
        return F.normalize(
            lnamd("cpu", feature_dim=width, feature_layer=[1], r=degree)._embed([with_class])[:, :, 0], dim=-1
        )

    def own(patches: torch.Tensor) -> torch.Tensor:
        room = torch.empty(count, count, side * side)
        return mutual_scores(patches, 0.4, scratch=room, device=torch.device("cpu"))

    theirs, seconds = timed(lambda: [around(degree) for degree in degrees])
    normed = F.layer_norm(tokens, tokens.shape[1:])
    ours, own_seconds = timed(lambda: [aggregated(normed, (side, side), degree) for degree in degrees])
    apart = max((one - other).abs().max() for one, other in zip(theirs, ours, strict=True))
    line("MuSc, neighbourhoods 1, 3, 5 of 4 images", seconds, own_seconds, apart, max(each.max() for each in ours))
    theirs, seconds = timed(lambda: [msm(each, "cpu", 0, 0.4) for each in theirs])
    ours, own_seconds = timed(lambda: [own(each) for each in ours])
    apart = max((one - other).abs().max() for one, other in zip(theirs, ours, strict=True))
    line("MuSc, mutual scoring", seconds, own_seconds, apart, max(each.max() for each in ours))


def subspace_ad(options: argparse.Namespace) -> None:
    """A fit on three views of a ViT-g/14 at 672 px, and an image."""
    sys.path.insert(0, str(options.checkouts[0] / "src"))
    pca, scoring = import_module("subspacead.core.pca"), import_module("subspacead.post_process.scoring")
    width, side, views = 1536, 48, 3
    mixing = torch.randn(width, width) * torch.logspace(0, -3, width)[:, None]
    *tokens, query = ((torch.randn(side * side, width) @ mixing) for _ in range(views + 1))

    def their_fit() -> Any:
        given = lambda: (each.numpy() for each in tokens)  # noqa: E731
        return pca.PCAModel(ev=0.99).fit(given, width, views * side * side, views)

    def their_map() -> tuple[np.ndarray, float]:
        residuals = scoring.calculate_anomaly_scores(query.numpy(), known, "reconstruction", 0)
        found = scoring.post_process_map(residuals.reshape(side, side), 672)
        return found, scoring.aggregate_image_score(found, "mtop1p")

    known, seconds = timed(their_fit)
    first = Moments.of(tokens[0])
    subspace, own_seconds = timed(lambda: sum((Moments.of(each) for each in tokens[1:]), first).subspace(0.99))
    line(f"SubspaceAD, fit on {views} x {side * side} tokens of {width}", seconds, own_seconds)
    (theirs, score), seconds = timed(their_map)
    ours, own_seconds = timed(lambda: upsampled(subspace.residuals(query[None]), (side, side), (672, 672), 4.0, 1))
    line("SubspaceAD, map of 672 px", seconds, own_seconds, np.abs(ours[0].numpy() - theirs).max(), theirs.max())
    line("SubspaceAD, its score", 0, 0, abs(float(top_mean(ours, 0.01)) - score), score)


def picture(seed: int) -> np.ndarray:
    """A blurred random picture of 900 x 900 with a bright object in its middle."""
    pixels = np.random.default_rng(seed).integers(0, 120, (900, 900, 3), dtype=np.uint8)
    cv2.ellipse(pixels, (450, 450), (300, 225), 20 * seed, 0, 360, (250, 200, 90 + 20 * seed), -1)
    return cv2.GaussianBlur(pixels, (0, 0), 2)


def anomaly_dino(options: argparse.Namespace) -> None:
    """The batched mode on three pictures, DINOv2 ViT-S/14, from the pictures to maps and scores."""
    sys.path[:0] = [str(each) for each in options.checkouts]
    if find_spec("faiss") is None:
        sys.modules["faiss"] = ModuleType("faiss")  # the batched mode imports it and does not use it
    net = import_module("dinov2.models.vision_transformer").vit_small(
        patch_size=14, img_size=518, init_values=1.0, block_chunks=0
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    torch.hub.load = lambda *_: net.eval()
    batched = import_module("run_anomalydino_batched")
    wrapper = import_module("src.backbones").DINOv2Wrapper("dinov2_vits14", "cpu", options.side)
    to_map, pictures = import_module("src.utils").dists2map, [picture(seed) for seed in range(3)]

    def their_way() -> tuple[list[np.ndarray], list[float]]:
        features, masks, grids = [], [], []
        for each in pictures:
            tensor, grid = wrapper.prepare_image(each)
            features.append(wrapper.extract_features(tensor))
            grids.append(grid)
            masks.append(wrapper.compute_background_mask(features[-1], grid, 10, options.masking == "always"))
        found = [batched.calculate_cosine_distances(features, i, "cpu") * masks[i] for i in range(len(pictures))]
        maps = [to_map(each.reshape(grid), (900, 900)) for each, grid in zip(found, grids, strict=True)]
        return maps, [batched.dists_to_score(each) for each in found]

    with tempfile.TemporaryDirectory() as folder:
        torch.save(net.state_dict(), Path(folder) / "net.pth")
        vit = load_vit("vit_small_patch14_dinov2", weights=f"{folder}/net.pth", stages=[12], final_norm=True)
    model = AnomalyDINOBatch(vit, side=options.side, masking=options.masking)
    images = [torch.from_numpy(each.copy()).permute(2, 0, 1) for each in pictures]
    (maps, scores), seconds = timed(their_way)
    found, own_seconds = timed(lambda: list(model.predict_together(images, "nut")))
    ours = torch.cat([each.anomaly_maps for each in found])
    theirs = torch.from_numpy(np.stack(maps)).float()[:, None]
    theirs = F.interpolate(theirs, ours.shape[1:], mode="bilinear", antialias=True)[:, 0]
    what = f"AnomalyDINO batched, 3 images of {options.side} px, masking {options.masking}"
    line(what, seconds, own_seconds, (ours - theirs).abs().max(), theirs.max())
    apart = np.abs(torch.cat([each.image_scores for each in found]).numpy() - np.array(scores)).max()
    line("its scores", 0, 0, apart, max(scores))


def april_gan(options: argparse.Namespace) -> None:
    """Whole images, from the file to the map, ViT-L/14-336 at 518 px: one at a time as theirs, and 16."""
    shown = [f"shot_{i}/photo.png" for i in range(options.images)]
    with tempfile.TemporaryDirectory() as name, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folder = Path(name)
        for seed, file in enumerate(shown):
            (folder / file).parent.mkdir()
            cv2.imwrite(str(folder / file), picture(seed))
        cv2.imwrite(str(folder / "mask.png"), np.zeros((900, 900), np.uint8))
        facts = {"mask_path": "mask.png", "cls_name": "nut", "specie_name": "", "anomaly": 1}  # 0 needs an old Pillow
        known = [{"img_path": each, **facts} for each in shown]
        (folder / "meta.json").write_text(json.dumps({"train": {"nut": known}, "test": {"nut": known}}))
        settings = ["model=clip_adapter", "weights=random_vitl14_336", "prompts=april_gan"]
        model = instantiate(compose("few_shot", settings).model).eval()
        torch.save(model.backbone.clip.state_dict(), folder / "clip.pt")
        torch.save({"trainable_linearlayer": model.adapter.state_dict()}, folder / "adapter.pth")
        for shots in options.shots:
            _beside_april_gan(model, folder, shown, shots, options)


def _beside_april_gan(
    model: AnomalyModel, folder: Path, shown: Sequence[str], shots: int, options: argparse.Namespace
) -> None:
    """The rows of a number of references, in the precisions that theirs has on this device."""
    cuda = options.device == "cuda"
    command = [sys.executable, "-m", "benchmarks.april_gan_side", str(options.checkouts[0]), str(folder), str(shots)]
    alone = {} if cuda else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **alone}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"their command failed:\n{done.stderr[-2000:]}")
    theirs = np.load(folder / "theirs.npz")
    clock = theirs["times"][:, 0 if cuda else 1]
    seconds = (clock[-1] - clock[0]) / (len(clock) - 1)
    model.to(options.device)
    now = time.perf_counter if cuda else time.process_time
    for precision, batch in [("float16", 1), ("float16", 16), ("bfloat16", 16)] if cuda else [("float32", 1)]:
        model.backbone.precision = precision

        def judged(files: Sequence[Path | str]) -> np.ndarray:
            images = torch.stack([model.preprocess(PIL.Image.open(folder / each)) for each in files])
            return model.predict(images.to(options.device), ["nut"] * len(files)).anomaly_maps.float().cpu().numpy()

        if shots:
            references = torch.stack([model.preprocess(PIL.Image.open(folder / each)) for each in theirs["drawn"]])
            model.fit(references.to(options.device), "nut")
        files = [*shown] * batch
        judged(files[:batch])  # the first one makes what later ones find made
        began = now()
        ours = np.concatenate([judged(files[at : at + batch]) for at in range(0, len(files), batch)])
        own = (now() - began) / len(ours)
        apart = np.abs(ours[: len(shown)] - theirs["maps"]).max()
        line(f"APRIL-GAN, {shots} references, {precision}, {batch} at once", seconds, own, apart, theirs["maps"].max())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each stage of a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods: dict[str, Callable[[argparse.Namespace], None]] = {
        "musc": musc, "subspace_ad": subspace_ad, "anomaly_dino": anomaly_dino, "april_gan": april_gan
    }  # fmt: skip
    parser.add_argument("method", choices=methods)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=672)
    parser.add_argument("--masking", choices=("never", "always"), default="never")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of april_gan")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 4], help="of april_gan")
    parser.add_argument("--images", type=int, default=8, help="of april_gan; the first does not count on their side")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, clock = machine()["processor"], f"{options.threads} thread(s); seconds of the processor"
    if options.device == "cuda":
        device, clock = torch.cuda.get_device_name(), "seconds by the clock"
    print(device, clock, flush=True)
    with torch.no_grad():
        methods[options.method](options)


if __name__ == "__main__":
    main()
