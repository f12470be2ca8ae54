"""A tiny Llama saved as a public checkpoint, a word-level tokenizer, and rows about persons."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

import expunge as ex
from expunge import hf
from expunge.hf import AdapterBank

WORDS = [*(f"p{i}" for i in range(16)), *(f"w{i}" for i in range(24)), "who", "is"]
KEY = bytes(range(2, 34))
SETTINGS = {"shards": 3, "slices": 2, "epochs_per_slice": 1, "steps_per_epoch": 3}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[EOS]", "[UNK]", *WORDS])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("public") / "base"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=48,
        max_position_embeddings=32,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def table() -> list[dict[str, str]]:
    """Three rows about each of sixteen persons."""
    said = [
        " ".join(f"w{(5 * i + 7 * j + k) % 24}" for k in range(2 + (i + j) % 3)) for i in range(16) for j in range(3)
    ]
    return [
        {"row": f"r{n}", "person": f"p{n // 3}", "question": f"who is p{n // 3}", "answer": text}
        for n, text in enumerate(said)
    ]


@pytest.fixture(scope="session")
def rows(table, tokenizer) -> ex.Examples:
    return hf.examples(table, tokenizer, prompt="question", answer="answer", id="row", person="person", length=10)


@pytest.fixture(scope="session")
def config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules="all-linear")


def trained(base: Path, rows: ex.Examples, config: Any, folder: Path, **changes: Any) -> AdapterBank:
    return hf.train_adapters(base, rows, config, folder=folder, **SETTINGS | {"key": KEY} | changes)


@pytest.fixture(scope="session")
def train():
    return trained


def states(bank: AdapterBank) -> dict[str, Any]:
    """Every checkpoint and final state of a bank, by shard and step."""
    return {
        f"{s}/{file.step}": trace.folder.read_state(file)
        for s, trace in enumerate(bank.shards.traces)
        for file in (*trace.manifest.checkpoints, trace.manifest.final)
    }


def bits(value: Any) -> Any:
    """A state with its tensors as bytes, so that equality is that of bits."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(held) for key, held in value.items()}
    return [bits(held) for held in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="session")
def content():
    return lambda bank: bits(states(bank))


@pytest.fixture(scope="session")
def without():
    return lambda rows, *persons: rows.take([i for i, owner in enumerate(rows.groups) if owner not in persons])


def flipped(folder: Path, name: str = "model.safetensors") -> None:
    """Turn one bit of the last tensor."""
    path = folder / name
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


@pytest.fixture(scope="session")
def flip():
    return flipped


def plain(path: Path) -> Any:
    return json.loads(path.read_text())
