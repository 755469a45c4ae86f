"""What is common to all servers of a job; `test_student_server` starts and ends one."""

from app.worker.engines.server import last_words


def test_the_last_words_of_a_log(tmp_path):
    log = tmp_path / "vllm.txt"
    assert last_words(log) == ""
    log.write_text("(APIServer pid=1) INFO 11-27 10:00:00 [a.py:1] up\nKilled\n\n")
    assert last_words(log) == "Killed" and last_words(log, only_errors=True) == ""
    log.write_text(
        "(Worker pid=2) ERROR 11-27 10:00:00 [m.py:9] RuntimeError: no offset\n"
        "(APIServer pid=1) ERROR 11-27 10:00:00 [a.py:1] vllm.EngineDeadError: See root cause.\n"
    )
    assert last_words(log) == "RuntimeError: no offset"
