"""Write the synthetic data set to a folder of PNG files in the MVTec layout, to look at or to read back."""

import argparse
from pathlib import Path

import PIL.Image

from tracks.datasets.synthetic.dataset import Synthetic, SyntheticSample


def write(data: Synthetic, root: Path, categories: list[str]) -> int:
    """Write all images of some categories below `root`; returns how many.

    Layout: CATEGORY/train/good, CATEGORY/test/KIND, CATEGORY/ground_truth/KIND/STEM_mask.png (255 on the defect).
    """
    count = 0
    for category in categories:
        for sample in [*data.train(category), *data.test(category)]:
            _write_sample(sample, root / category)
            count += 1
    return count


def _write_sample(sample: SyntheticSample, folder: Path) -> None:
    path = folder / sample.name
    path.parent.mkdir(parents=True, exist_ok=True)
    sample.load_image().save(path)
    if sample.label:
        truth = folder / "ground_truth" / sample.defect_type / f"{path.stem}_mask.png"
        truth.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(sample.load_mask()).convert("L").save(truth)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the images."""
    parser = argparse.ArgumentParser(prog="python -m tracks.datasets.synthetic", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; made if it does not exist")
    parser.add_argument("--split", choices=("source", "validation", "target"), default="target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=256, help="pixels a side")
    parser.add_argument("--category", action="append", help="only this category; may be repeated")
    given = parser.parse_args(arguments)
    data = Synthetic(given.split, given.seed, given.image_size)
    categories = given.category or list(data.categories)
    for category in categories:
        if category not in data.categories:
            parser.error(f"no category {category!r} in split {given.split}; choose from {', '.join(data.categories)}")
    print(f"{write(data, given.folder, categories)} images written to {given.folder}")


if __name__ == "__main__":
    main()
