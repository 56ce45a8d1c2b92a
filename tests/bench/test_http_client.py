from __future__ import annotations

import pytest

from bench.load_test.http_client import ChunkedBody, InvalidResponseError, SizedBody, parse_head


def chunked(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_chunked_body_gives_its_content_wherever_it_is_cut(step: int) -> None:
    data = chunked(b"a" * 300, b"\r\n0\r\n\r\n", b"b")
    body = ChunkedBody()
    content = b""
    for at in range(0, len(data), step):
        assert not body.ended
        content += body.feed(data[at : at + step])
    assert (content, body.ended) == (b"a" * 300 + b"\r\n0\r\n\r\n" + b"b", True)


def test_a_body_that_is_cut_has_not_ended() -> None:
    body = ChunkedBody()
    assert body.feed(chunked(b"abc")[:-2]) == b"abc"
    assert not body.ended


def test_what_is_no_chunk_is_refused() -> None:
    with pytest.raises(InvalidResponseError, match="size"):
        ChunkedBody().feed(b"hello\r\n")


def test_a_sized_body_ends_with_its_size() -> None:
    body = SizedBody(5)
    assert [body.feed(b"abc"), body.ended, body.feed(b"defg"), body.ended] == [b"abc", False, b"de", True]


def test_a_head_is_read_whatever_its_case() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked") == (200, {"transfer-encoding": "chunked"})
    with pytest.raises(InvalidResponseError):
        parse_head(b"SSH-2.0-nothing")
