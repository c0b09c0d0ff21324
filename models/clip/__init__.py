"""CLIP through open_clip: backbone, weights, prompts.

open_clip imports transformers for text towers of Hugging Face's, which `models.clip.weights` refuses: two seconds and
100 MB that none of our models needs. So it is imported as if transformers were not installed; who wants those towers
too imports open_clip, or transformers, before this package.
"""

import sys

if not {"open_clip", "transformers"} & set(sys.modules):
    sys.modules["transformers"] = None  # type: ignore[assignment]
    try:
        import open_clip  # noqa: F401
    finally:
        del sys.modules["transformers"]
