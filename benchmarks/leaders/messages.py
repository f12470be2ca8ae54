"""SMS spam as rows of numbers that no row of the data had a say in: words counted in columns that a fixed hash gives them."""

import re
import zlib

import torch
from paper.data import DataError, folder

import expunge as ex

__all__ = ["PROVENANCE", "WIDTH", "messages"]

WIDTH = 1024
PROVENANCE = "words counted by CRC-32 modulo 1024, log(1 + count)"
_WORD = re.compile(r"[a-z']+|[0-9]+|[£$!]")
_TRAINED = 4  # of 5 messages; every fifth is one to test


def messages() -> tuple[ex.Examples, ex.Examples]:
    """(x, y) to learn and to test, x of shape (n, 1024) and y 1 for spam.

    Raises:
        DataError: the file is missing, or is not what it should be.
    """
    path = folder() / "sms_spam" / "SMSSpamCollection"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} is missing: set EXPUNGE_DATA to a folder that holds sms_spam/") from error
    told = [line.split("\t", 1) for line in lines if line]
    if len(told) != 5574 or {kind for kind, *_ in told} != {"ham", "spam"}:
        raise DataError(f"{path} holds {len(told)} messages, not 5574 of ham and spam")
    x = torch.zeros(len(told), WIDTH)
    for row, (_, text) in enumerate(told):
        for word in _WORD.findall(text.lower()):
            x[row, zlib.crc32(word.encode()) % WIDTH] += 1
    y = torch.tensor([int(kind == "spam") for kind, _ in told])
    test = torch.arange(len(told)) % 5 == _TRAINED
    return tuple(ex.Examples(torch.log1p(x[own]), y[own]) for own in (~test, test))  # pyright: ignore[reportReturnType]
