"""Where a prompt's words lie among what language models show a network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from asyndm.core.words import find_tokens

START, USER, LINE = "<|im_start|>", "user", "Ċ"
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n"
SYSTEM = "<|im_start|>system a cat<|im_end|>\n" + TEMPLATE


class Tokenizer:
    """Pieces of byte-level BPE, or Gemma's."""

    def __init__(self, mark: str = "Ġ") -> None:
        self.mark, self.pieces = mark, ["<pad>"]

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        for special in (START, "<|im_end|>"):
            text = text.replace(special, f"\0{special}\0")
        said = [self._of(part) for part in text.split("\0") if part]
        return {"input_ids": [number for part in said for number in part]}

    def _of(self, text: str) -> list[int]:
        pieces = text.replace("\n", "\0Ċ\0").replace(" ", f"\0{self.mark}").split("\0")
        return [self._number(piece) for piece in pieces if piece]

    def _number(self, piece: str) -> int:
        if piece not in self.pieces:
            self.pieces.append(piece)
        return self.pieces.index(piece)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.pieces[number] for number in ids]


class Qwen:
    """In a template whose first message the host cuts off again."""

    llama_template = SYSTEM

    def __init__(self, tokenizer: Tokenizer, dims: int | None = None) -> None:
        self.tokenizer, self.dims = tokenizer, dims
        if dims is not None:
            self.strip_template = self._strip

    def tokenize_line(self, line: str) -> list[SimpleNamespace]:
        if self.dims is None:
            self.llama_template = TEMPLATE
        ids = self.tokenizer(self.llama_template.format(line))["input_ids"]
        return [SimpleNamespace(tokens=ids)]

    def _strip(self, out: torch.Tensor, tokens: list[int]) -> torch.Tensor:
        start = [at for at, n in enumerate(tokens) if self.tokenizer.pieces[n] == START][1] + 3
        if self.dims == 2:
            assert out.shape[1] > start
            return out[start:]
        return out[:, :, start:].permute(0, 2, 1, 3).flatten(2) + 0 * out.shape[2]


class Gemma:
    """Behind an instruction that is no part of what ``tokenize_line`` is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def process_template(self, text: str, negative: bool) -> str:
        return f"draw a cat\n{text}"

    def tokenize_line(self, line: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(tokens=[0, *self.tokenizer(line)["input_ids"]])]


class Anima:
    """Two tokenizers, of which T5's gives the places."""

    def __init__(self) -> None:
        self.qwen_tokenizer, self.t5_tokenizer = Tokenizer(), Tokenizer("▁")

    def tokenize_line(self, line: str) -> list[SimpleNamespace]:
        qwen = self.qwen_tokenizer("some more " + line)["input_ids"]
        chunk = SimpleNamespace(qwen_tokens=qwen, t5_tokens=self.t5_tokenizer(line)["input_ids"])
        return [chunk]


class Processor:
    """Ernie's: the tokenizer inside one that takes pictures as well."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, images: None, text: str) -> dict[str, list[int]]:
        return self.tokenizer(text)


class Ministral:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = Processor(tokenizer)

    def tokenize_line(self, line: str) -> list[SimpleNamespace]:
        ids = torch.tensor([0, *self.tokenizer(images=None, text=line)["input_ids"]])
        return [SimpleNamespace(tokens=list(ids))]


class UmT5:
    """Wan's, in Neo: it ends each text of a weight by itself, without the text's last letter, and
    shows the network the first."""

    tokens_end = -1

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer._number("</s>")

    def tokenize_line(self, line: str) -> tuple[list[SimpleNamespace], int]:
        texts = [part.partition(":")[0] for part in line.replace("(", ")").split(")")]
        ids = [[*self.tokenizer(text[:-1])["input_ids"], self.end] for text in texts if text]
        return [SimpleNamespace(tokens=[*sum(ids, []), self.end, 0, 0])], 0

    def process_attn_mask(self, tokens: list[list[int]]) -> torch.Tensor:
        (row,) = tokens
        first = row.index(self.end)
        return torch.tensor([[int(at <= first) for at in range(len(row))]])


@pytest.mark.parametrize(
    ("engine", "places"),
    [
        (Qwen(Tokenizer()), [[3], [7]]),  # <start> user \n cat Ġand Ġa Ġred Ġcat
        (Qwen(Tokenizer(), 2), [[0], [4]]),
        (Qwen(Tokenizer(), 4), [[0], [4]]),
        (Gemma(Tokenizer("▁")), [[5], [9]]),  # <pad> draw ▁a ▁cat \n cat ...
        (Anima(), [[0], [4]]),
        (Ministral(Tokenizer()), [[1], [5]]),  # <pad> cat Ġand Ġa Ġred Ġcat
        (UmT5(Tokenizer("▁")), [[0], [4]]),  # cat ▁and ▁a ▁red ▁ca </s>
    ],
)
def test_words_are_found_behind_a_template_and_not_in_it(host, engine, places) -> None:
    from asyndm.hosts.encoders import engine_pieces

    pieces = engine_pieces(engine, "cat and a red cat")
    assert find_tokens("cat", pieces) == places
    assert not find_tokens("system", pieces) and not find_tokens("draw", pieces)
    assert find_tokens("red", pieces) == [[places[1][0] - 1]]


def test_what_a_host_cuts_off_and_leaves_out(host) -> None:
    """A last letter is no other word; a word that the network is not shown is none."""
    from asyndm.hosts.encoders import engine_pieces

    engine = UmT5(Tokenizer("▁"))
    pieces = engine_pieces(engine, "(black cat:1.2) in tall grass")
    # black ▁ca </s> ▁in ▁tall ▁gras </s> ...
    assert find_tokens("black cat", pieces) == [[0, 1]] and not find_tokens("ca", pieces)
    assert not find_tokens("grass", pieces) and not find_tokens("tall", pieces)
    assert find_tokens("grass", engine_pieces(engine, "tall grass")) == [[1]]
    assert not find_tokens("glass", engine_pieces(engine, "glas ")), "nothing was cut off"


def test_an_engine_that_is_unknown_is_one_line(host) -> None:
    from asyndm.hosts.encoders import transformer_tokens
    from asyndm.network import UnsupportedNetwork

    with pytest.raises(UnsupportedNetwork, match="text encoder"):
        transformer_tokens(SimpleNamespace(), torch.nn.Linear(1, 1), None, "cat")
    model = SimpleNamespace(text_processing_engine_qwen=Qwen(Tokenizer(), 2))
    ((pieces, embeddings),) = transformer_tokens(model, torch.nn.Linear(1, 1), None, "cat")
    assert find_tokens("cat", pieces) == [[0]] and not embeddings


def test_t5_is_read_where_it_is_loaded_and_switched_on(host, monkeypatch) -> None:
    """AUTOMATIC1111 shows zeros where the setting came after the model."""
    from asyndm.hosts import encoders

    words = Tokenizer("▁")
    engine = SimpleNamespace(tokenizer=words, t5xxl=object())
    engine.tokenize_line = lambda text, target_token_count: (
        [*words(text)["input_ids"], *[0] * target_token_count][:target_token_count], None
    )  # fmt: skip
    model = SimpleNamespace(cond_stage_model=SimpleNamespace(model_t5=engine))
    network, clip = torch.nn.Module(), (["<start>", "cat</w>", *["<end>"] * 75], {})
    network.joint_blocks = torch.nn.ModuleList()

    def read() -> list:
        return encoders.transformer_tokens(model, network, lambda text: clip, "a cat")

    assert read() == [clip]
    opts = SimpleNamespace(sd3_enable_t5=True)
    monkeypatch.setattr(encoders, "shared", SimpleNamespace(opts=opts))
    _, (pieces, _) = read()
    assert len(pieces) == 77 and find_tokens("cat", pieces) == [[1]]
    engine.t5xxl = None
    assert read() == [clip]
