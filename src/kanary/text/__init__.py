"""Text: files and data sets in, windows of token ids out, with the document and position of every token."""

from kanary.text.guard import TextCheck, check_text
from kanary.text.labelled import labelled
from kanary.text.source import Document, TextSource, open_text
from kanary.text.windows import TokenBatch, Windows

__all__ = ["Document", "TextCheck", "TextSource", "TokenBatch", "Windows", "check_text", "labelled", "open_text"]
