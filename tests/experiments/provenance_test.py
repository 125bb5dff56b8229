"""What is told of the surroundings of a run."""

import subprocess

from experiments import provenance


def test_versions_are_those_of_the_packages():
    import jax

    found = provenance.versions()
    assert found["jax"] == jax.__version__
    assert found["python"].startswith("3.")


def test_packages_that_are_not_there_have_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-distribution",))
    assert provenance.versions()["no-such-distribution"] is None


def test_revision_and_changes_are_told(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ("git", "-C", str(tmp_path), *identity, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True)

    monkeypatch.setattr(provenance, "_REPOSITORY", tmp_path.resolve())
    assert provenance.git_state() is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    revision = git("rev-parse", "HEAD").stdout.strip()
    assert provenance.git_state() == {"revision": revision, "dirty": False}
    (tmp_path / "file").write_text("2")
    assert provenance.git_state() == {"revision": revision, "dirty": True}
    # A folder inside another project's checkout is not under that project's revision.
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(provenance, "_REPOSITORY", (tmp_path / "inner").resolve())
    assert provenance.git_state() is None


def test_device_is_told():
    assert provenance.describe_device()["platform"] == "cpu"
