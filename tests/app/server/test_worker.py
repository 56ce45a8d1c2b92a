from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from uvicorn_worker import UvicornWorker

from app.pool import master as master_module
from app.pool.assignment import WorkerAssignment
from app.pool.master import IMPORTING, Master
from app.pool.watchdog import WorkerExit
from app.pool.worker_registry import WorkerRecord
from app.server import worker as worker_module
from app.server.worker import ServiceWorker
from app.settings_loader import SettingsError

TRACE = "Traceback"


def boot(
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    start_error: Exception | None = None,
    code: int = WorkerExit.BOOT_FAILED,
) -> WorkerRecord:
    """Boot a worker that fails. Returns its record in the registry. code: its exit status."""

    def init_process(self: object) -> None:
        raise error

    monkeypatch.setattr(UvicornWorker, "init_process", init_process)
    monkeypatch.setattr(worker_module, "raise_open_files_limit", lambda: None)
    master = Master([WorkerAssignment()])
    index = master.assign()
    assert index == 0
    monkeypatch.setattr(
        master_module,
        "_current_context",
        master_module.WorkerContext(WorkerAssignment(), master.registry, master.counters, index, master.key_counts),
    )
    worker = object.__new__(ServiceWorker)
    worker.wsgi = SimpleNamespace(state=SimpleNamespace(start_error=start_error))
    with pytest.raises(SystemExit) as ended:
        worker.init_process()
    assert ended.value.code == code
    return master.registry.record(0)


def test_an_import_error_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    record = boot(monkeypatch, ModuleNotFoundError("No module named 'x'"))
    assert record.error.startswith("ModuleNotFoundError: No module named 'x' (")
    assert "make install" in record.error
    assert (record.state, record.doing) == ("starting", IMPORTING)
    assert [each for each in caplog.records if each.levelno > logging.DEBUG] == []


def test_an_unexpected_error_is_logged_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = boot(monkeypatch, KeyError("two\nlines"))
    assert (record.error, record.doing) == (r"KeyError: 'two\nlines'", "")
    assert TRACE in caplog.text


def test_a_settings_error_is_recorded_as_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot(monkeypatch, SettingsError("PORT is '0', which\ncannot be used")).error == (
        "PORT is '0', which cannot be used"
    )


def test_a_failed_startup_is_recorded_as_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    record = boot(monkeypatch, SystemExit(3), OSError(28, "No space left on device"))
    assert record.error == "OSError: [Errno 28] No space left on device"
    assert boot(monkeypatch, SystemExit(3)).error == "RuntimeError: the application did not start"


def test_a_normal_exit_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record = boot(monkeypatch, SystemExit(0), code=0)
    assert (record.state, record.error) == ("starting", "")
