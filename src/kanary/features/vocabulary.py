"""What every token stands for, as bytes: half a character stays half a character."""

import codecs
import json
import re
from typing import Any

import numpy as np

from kanary.features.arrays import Array
from kanary.lm import LanguageModel


def token_bytes(lm: LanguageModel) -> list[bytes]:
    """The bytes of every token of the vocabulary, special tokens by their names; of an id without a token ``⟨id 7⟩``."""
    tokenizer = lm.tokenizer
    ids = list(range(lm.vocab_size))
    known = min(len(tokenizer), lm.vocab_size)
    names: list[str | None] = [*tokenizer.convert_ids_to_tokens(ids[:known]), *[None] * (lm.vocab_size - known)]
    added = {int(id) for id in getattr(tokenizer, "added_tokens_decoder", {})}
    table = _BYTES if _byte_level(tokenizer) else None
    return [
        f"⟨id {id}⟩".encode() if name is None else name.encode() if id in added else _bytes(name, table)
        for id, name in zip(ids, names, strict=True)
    ]


def packed(texts: list[bytes]) -> dict[str, Array]:
    """As two arrays: all bytes end to end, and where each text begins."""
    sizes = np.array([len(text) for text in texts], np.int64)
    return {
        "token_bytes": np.frombuffer(b"".join(texts), np.uint8),
        "token_offsets": np.concatenate([[0], sizes.cumsum()]),
    }


def shown(data: bytes) -> str:
    """As text; bytes that are no UTF-8 as ``⟨e2⟩``."""
    return data.decode("utf-8", "kanary-hex")


def byte_of(name: str) -> int | None:
    """The byte that ``<0x0A>`` is: SentencePiece's way with what it has no token for."""
    found = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name)
    return int(found[1], 16) if found else None


def _hex(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"⟨{byte:02x}⟩" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("kanary-hex", _hex)


def _byte_level(tokenizer: Any) -> bool:
    """Whether names of tokens are written in the byte-level alphabet of GPT-2, in which ``Ġ`` is a space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _bytes(name: str, table: dict[str, int] | None) -> bytes:
    if table is not None:
        return b"".join(bytes([table[c]]) if c in table else c.encode() for c in name)
    byte = byte_of(name)
    return bytes([byte]) if byte is not None else name.replace("▁", " ").encode()


def _alphabet() -> dict[str, int]:
    """GPT-2's character for every byte: itself where it can be printed, the next free one from 256 on where not."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _alphabet()
