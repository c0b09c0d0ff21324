"""What GroundingDINO reads: an image resized and normalised, and captions as word pieces that see their own phrase."""

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from models.errors import ModelInputError
from models.images import IMAGENET_MEAN, IMAGENET_STD, check_image

MAX_TOKENS = 256
VOCABULARY = "vocab.txt"
SPECIAL = ("[CLS]", "[SEP]", ".", "?")
"""Tokens that end a phrase and belong to no word."""
BERT_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
"""Their numbers in the vocabulary of BERT-base-uncased, and those of its other marks."""
log = logging.getLogger(__name__)


def resized_shape(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) with the short side as asked, or smaller where the long one would exceed `long_side`.

    The longer side is rounded down, the shorter to nearest, as the package groundingdino-py does; never below 1.
    """
    short, long = sorted((height, width))
    side = short_side
    if long / short * side > long_side:
        side = max(1, round(long_side * short / long))
    if side == short:
        return height, width
    longer = int(side * long / short)
    return (longer, side) if height > width else (side, longer)


def to_pixels(image: Tensor, short_side: int, long_side: int) -> Tensor:
    """A uint8 RGB image (3, H, W) to (3, h, w) float32 on the CPU, by PIL's bilinear resize and ImageNet's statistics.

    Raises:
        ModelInputError: another shape or type.
    """
    check_image(image)
    height, width = resized_shape(image.shape[1], image.shape[2], short_side, long_side)
    picture = PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    array = np.array(picture.resize((width, height), PIL.Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(array).permute(2, 0, 1).to(torch.float32).div_(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.sub_(mean).div_(std).contiguous()


@dataclass(frozen=True, eq=False)
class CaptionTokens:
    """A caption of T tokens, on the CPU.

    `positions` (T,) counts each token within its phrase, from 0; `phrases` (T, T) is True where tokens share a phrase;
    `words` (T,) is True for tokens of words, False for [CLS], [SEP], "." and "?".
    """

    text: str
    ids: tuple[int, ...]
    positions: Tensor
    phrases: Tensor
    words: Tensor


def normalised(caption: str) -> str:
    """Lower case, no blanks around it, a full stop at its end: the form the model was trained on.

    Raises:
        ModelInputError: no letter and no digit in it.
    """
    if not isinstance(caption, str) or not any(letter.isalnum() for letter in caption):
        raise ModelInputError(
            f'expected a caption with at least one word, such as "defect on bottle", got {caption!r}; name what to '
            "look for"
        )
    text = caption.lower().strip()
    return text if text.endswith(".") else text + "."


class CaptionReader:
    """Word pieces of captions by a BERT vocabulary, and the phrases that tokens stand for."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._special = torch.tensor(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
        self._phrase = lru_cache(maxsize=4096)(self._decode)

    def __len__(self) -> int:
        """How many word pieces the vocabulary has."""
        return len(self.tokenizer)

    def read(self, text: str) -> CaptionTokens:
        """A normalised caption, cut to `MAX_TOKENS` tokens with a warning, as the model cuts it.

        A phrase is what lies between two special tokens, with the one that ends it; [CLS] and [SEP] stand alone.
        """
        ids = torch.tensor(self.tokenizer(text, verbose=False)["input_ids"])
        special = torch.isin(ids, self._special)
        phrase = special.cumsum(0) - special.long()
        first = torch.searchsorted(phrase, phrase)
        positions = torch.arange(len(ids)) - first
        if len(ids) > MAX_TOKENS:
            log.warning("caption of %d tokens cut to %d: %.60s ...", len(ids), MAX_TOKENS, text)
        kept = slice(0, MAX_TOKENS)
        phrase = phrase[kept]
        same = phrase[:, None] == phrase[None, :]
        return CaptionTokens(text, tuple(ids[kept].tolist()), positions[kept], same, ~special[kept])

    def phrases(self, caption: CaptionTokens, chosen: Tensor) -> tuple[str, ...]:
        """What the chosen tokens (N, T) of each of N boxes spell, without full stops."""
        ids = torch.tensor(caption.ids)
        return tuple(self._phrase(tuple(ids[row].tolist())) for row in chosen.cpu())

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(ids))).replace(".", "")


def load_reader(path: Path) -> CaptionReader:
    """The reader of a vocabulary: a file with one word piece per line, or a folder with such a `vocab.txt`.

    Raises:
        ModelInputError: no such file, or one without BERT's special tokens.
    """
    file = path / VOCABULARY if path.is_dir() else path
    if not file.is_file():
        raise ModelInputError(
            f"expected the vocabulary of BERT-base-uncased at {file}, found no file; put the {VOCABULARY} of "
            "bert-base-uncased (30,522 lines) there, or give the folder that holds it"
        )
    pieces = set(file.read_text(encoding="utf-8").split("\n"))
    if missing := [token for token in (*SPECIAL, "[UNK]", "[PAD]") if token not in pieces]:
        raise ModelInputError(
            f"expected {file} to be a BERT vocabulary, one word piece per line, but it lacks {', '.join(missing)}; "
            f"take the {VOCABULARY} of bert-base-uncased"
        )
    from transformers import BertTokenizerFast  # slow to import, and only the real generator needs it

    # transformers 5 calls `vocab_file` `vocab`; given only the other, each reads every word as unknown, or refuses.
    reader = CaptionReader(BertTokenizerFast(vocab_file=str(file), vocab=str(file), do_lower_case=True))
    assert len(reader) >= len(pieces - {""}), "the tokenizer has not read the vocabulary"
    return reader


def spelling_reader(words: Iterable[str] = (), as_bert: bool = False) -> CaptionReader:
    """A reader that needs no file: it knows the given words and spells all others letter by letter.

    For random weights only; trained weights need the vocabulary that they were trained with. `as_bert` gives the
    special tokens the numbers that they have in BERT's.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?,!;:'\"()-_/&+%#", *letters]
    pieces += [f"##{letter}" for letter in letters]
    pieces += sorted(set(words) - set(pieces))
    if as_bert:
        others = iter([piece for piece in pieces if piece not in BERT_IDS])
        fixed = {number: piece for piece, number in BERT_IDS.items()}
        size = max(BERT_IDS.values()) + 1 + len(pieces)
        pieces = [fixed[i] if i in fixed else next(others, f"[unused{i}]") for i in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, VOCABULARY).write_text("\n".join(pieces) + "\n", encoding="utf-8")
        return load_reader(Path(folder))
