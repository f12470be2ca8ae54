"""UCI Adult as rows of numbers that no row of the data had a say in."""

import csv

import torch
from paper.data import DataError, folder

import expunge as ex

__all__ = ["PROVENANCE", "adult"]

PROVENANCE = "one-hot columns of the documentation, round constants chosen without the rows"
# Position: what is subtracted, and by what is divided. Round numbers, of no row of the data.
NUMBERS = {0: (40.0, 20.0), 4: (10.0, 3.0), 10: (0.0, 10_000.0), 11: (0.0, 1_000.0), 12: (40.0, 12.0)}
SEX = 9


def adult() -> tuple[ex.Examples, ex.Examples]:
    """(x, y, group) of the official training and test rows; the group is the column sex, which x holds too.

    Values of the columns come from the documentation. The final weight of the survey is left out.

    Raises:
        DataError: a file is missing, or is not what it should be.
    """
    where = folder() / "adult"
    try:
        names = (where / "adult.names").read_text(encoding="utf-8").split(">50K, <=50K.")[1].splitlines()
        parts = [(where / name).read_text(encoding="utf-8") for name in ("adult.data", "adult.test")]
    except OSError as error:
        raise DataError(f"{error.filename} is missing: set EXPUNGE_DATA to a folder that holds adult/") from error
    columns = [line.partition(":")[2].strip().rstrip(".").split(", ") for line in names if ":" in line]
    if len(columns) != 14:
        raise DataError(f"{where / 'adult.names'} describes {len(columns)} columns, not 14")
    train, test = (_rows(part, columns) for part in parts)
    if (len(train), len(test)) != (32_561, 16_281):
        raise DataError(f"{where} holds {len(train)} and {len(test)} rows, not 32561 and 16281")
    return train, test


def _rows(text: str, columns: list[list[str]]) -> ex.Examples:
    rows, labels, groups = list[list[float]](), list[int](), list[int]()
    for line in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(line) != 15:
            continue  # the test file's first line, and empty ones
        row: list[float] = []
        for k, values in enumerate(columns):
            if k in NUMBERS:
                start, scale = NUMBERS[k]
                row.append((float(line[k]) - start) / scale)
            elif values != ["continuous"]:
                row += [float(line[k] == value) for value in values]  # a question mark is none of them
        rows.append(row)
        labels.append(int(line[14].startswith(">")))
        groups.append(columns[SEX].index(line[SEX]))
    return ex.Examples(torch.tensor(rows), torch.tensor(labels), torch.tensor(groups))
