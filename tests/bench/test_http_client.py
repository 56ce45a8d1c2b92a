from __future__ import annotations

import pytest

from bench.load_test.http_client import ChunkedBody, InvalidResponseError, SizedBody, parse_head


def chunked(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_chunked_body_is_decoded_at_any_split_of_the_bytes(step: int) -> None:
    data = chunked(b"a" * 300, b"\r\n0\r\n\r\n", b"b")
    body = ChunkedBody()
    content = b""
    for at in range(0, len(data), step):
        assert not body.ended
        content += body.feed(data[at : at + step])
    assert (content, body.ended) == (b"a" * 300 + b"\r\n0\r\n\r\n" + b"b", True)


def test_a_truncated_body_has_not_ended() -> None:
    body = ChunkedBody()
    assert body.feed(chunked(b"abc")[:-2]) == b"abc"
    assert not body.ended


def test_an_invalid_chunk_is_rejected() -> None:
    with pytest.raises(InvalidResponseError, match="size"):
        ChunkedBody().feed(b"hello\r\n")


def test_a_sized_body_ends_at_its_length() -> None:
    body = SizedBody(5)
    assert [body.feed(b"abc"), body.ended, body.feed(b"defg"), body.ended] == [b"abc", False, b"de", True]


def test_header_names_are_case_insensitive() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked") == (200, {"transfer-encoding": "chunked"})
    with pytest.raises(InvalidResponseError):
        parse_head(b"SSH-2.0-nothing")
