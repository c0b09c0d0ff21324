"""The threshold of SAA+ with the small weights, for its preset in `conf/variants.yaml`.

python -m train.saa_threshold FOLDER [FOLDER ...]     # photographs in MVTec's layout, as `train.card` takes them
"""

import sys

import torch

from train.card import threshold_on


def main() -> None:
    """Print the two lines of the preset."""
    torch.set_grad_enabled(False)
    threshold, source = threshold_on(sys.argv[1:], "model=saa_plus")
    print(f'image_threshold: {threshold:.4f}\nthreshold_source: "{source}"')


if __name__ == "__main__":
    main()
