"""The server's verifier against the library that signs: both accept, both refuse."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.adapters.signing import Signer
from tidemill.bundle import digest, hashes, read_golden, read_manifest, read_profile, verify
from tidemill.bundle.content import identity
from tidemill.errors import IntegrityError, NotFound, Unavailable


def oracle(folder: Path, public_key: Path) -> None:
    """Verify with model-signing; raises what it raises."""
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    config.verify(folder, folder / "model.sig")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "keys" / "signing.pem", tmp_path / "keys" / "signing.pub")


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "signing.pub"


@pytest.fixture
def bundle(tmp_path: Path, signer: Signer) -> Path:
    folder = tmp_path / "bundle"
    (folder / "extra").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 400)
    (folder / "manifest.json").write_text('{"name": "flight-delay"}')
    (folder / "extra" / "notes ü.txt").write_text("a name beyond ASCII")
    signer.sign(folder)
    return folder


def test_both_accept_a_signed_bundle(bundle: Path, public_key: Path) -> None:
    oracle(bundle, public_key)
    assert verify(bundle, public_key) == digest(bundle)


def test_the_folders_name_and_a_second_signature_change_nothing(
    bundle: Path, public_key: Path, signer: Signer, tmp_path: Path
) -> None:
    first = digest(bundle)
    moved = bundle.rename(tmp_path / "elsewhere")
    assert verify(moved, public_key) == first
    signer.sign(moved)
    oracle(moved, public_key)
    assert verify(moved, public_key) == first


def edit(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" ")


def statement(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Edit the signed statement and leave the signature over the old one."""

    def apply(folder: Path) -> None:
        body = json.loads((folder / "model.sig").read_text())
        payload = json.loads(base64.b64decode(body["dsseEnvelope"]["payload"]))
        change(payload)
        encoded = base64.b64encode(json.dumps(payload).encode()).decode()
        body["dsseEnvelope"]["payload"] = encoded
        (folder / "model.sig").write_text(json.dumps(body))

    return apply


def envelope(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        body = json.loads((folder / "model.sig").read_text())
        change(body)
        (folder / "model.sig").write_text(json.dumps(body))

    return apply


def link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "model.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "model.onnx")


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited model": (edit("model.onnx"), "'model.onnx' is not what was signed"),
    "edited manifest": (edit("manifest.json"), "'manifest.json' is not what was signed"),
    "missing file": (lambda f: (f / "manifest.json").unlink(), "'manifest.json' is missing"),
    "extra file": (lambda f: (f / "z.bin").write_text(""), "'z.bin' was not signed"),
    "extra nested": (lambda f: (f / "extra" / "z").write_text(""), "'extra/z' was not signed"),
    "renamed file": (
        lambda f: (f / "model.onnx").rename(f / "m.onnx"),
        "'model.onnx' is missing; 'm.onnx' was not signed",
    ),
    "linked file": (link, "'model.onnx' is a link"),
    "linked folder": (lambda f: (f / "d").symlink_to("/"), "'d' is a link"),
    "dangling link": (lambda f: (f / "d").symlink_to("nowhere"), "'d' is a link"),
    "no signature": (lambda f: (f / "model.sig").unlink(), "is not signed"),
    "empty signature": (lambda f: (f / "model.sig").write_text(""), "is malformed"),
    "truncated signature": (
        lambda f: (f / "model.sig").write_bytes((f / "model.sig").read_bytes()[:-200]),
        "is malformed",
    ),
    "binary signature": (lambda f: (f / "model.sig").write_bytes(b"\xff\x00"), "is malformed"),
    "deep signature": (lambda f: (f / "model.sig").write_text("[" * 100_000), "is malformed"),
    "list signature": (lambda f: (f / "model.sig").write_text("[]"), "is malformed"),
    "other media type": (envelope(lambda b: b.update(mediaType="x")), "its media type is 'x'"),
    "no envelope": (envelope(lambda b: b.pop("dsseEnvelope")), "'dsseEnvelope' is missing"),
    "no signatures": (
        envelope(lambda b: b["dsseEnvelope"].update(signatures=[])),
        "is malformed",
    ),
    "wrong signature": (
        envelope(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA")),
        "was not made by the expected key, or was edited",
    ),
    "edited hash": (
        statement(lambda s: s["predicate"]["resources"][0].update(digest="0" * 64)),
        "was not made by the expected key, or was edited",
    ),
    "dropped resource": (
        statement(lambda s: s["predicate"]["resources"].pop()),
        "was not made by the expected key, or was edited",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_both_refuse(name: str, bundle: Path, public_key: Path) -> None:
    tamper, message = TAMPERINGS[name]
    tamper(bundle)
    with pytest.raises(IntegrityError) as caught:
        verify(bundle, public_key)
    assert message in caught.value.message
    with pytest.raises(Exception):  # noqa: B017 - the library raises a dozen types
        oracle(bundle, public_key)


def test_half_a_pair_makes_no_new_one(bundle: Path, signer: Signer, public_key: Path) -> None:
    """A pod has the project's public key, and its own private one only if that is mounted."""
    private = public_key.with_suffix(".pem")
    private.unlink()
    with pytest.raises(IntegrityError, match="there is no private key") as caught:
        signer.sign(bundle)
    assert "execution.resources.register.secret_files" in caught.value.hint
    assert not private.exists()


def test_both_refuse_another_key(bundle: Path, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other.pem", tmp_path / "other.pub").ensure_key()
    with pytest.raises(IntegrityError, match="its key is"):
        verify(bundle, other)
    with pytest.raises(ValueError, match="Key mismatch"):
        oracle(bundle, other)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../model.onnx"], "leaves the bundle"),
        (["/etc/passwd"], "leaves the bundle"),
        (["a/../../b"], "leaves the bundle"),
        ([""], "leaves the bundle"),
        (["a", "a"], "double"),
    ],
)
def test_a_signed_name_cannot_leave_the_bundle(
    names: list[str], message: str, bundle: Path, public_key: Path, tmp_path: Path
) -> None:
    """Even the holder of the key cannot make the verifier look outside the folder."""
    resources = [{"name": n, "algorithm": "sha256", "digest": "0" * 64} for n in names]
    resign(bundle, tmp_path / "keys" / "signing.pem", resources)
    with pytest.raises(IntegrityError, match=message):
        verify(bundle, public_key)


def test_a_statement_signed_with_weaker_rules_is_refused(
    bundle: Path, public_key: Path, tmp_path: Path
) -> None:
    """A file that the statement says to ignore is still a file that nobody signed."""
    from model_signing import hashing, signing

    (bundle / "backdoor.so").write_text("x")
    files = hashing.Config().set_ignored_paths(paths=["model.sig", "backdoor.so"])
    signing.Config().set_hashing_config(files).use_elliptic_key_signer(
        private_key=tmp_path / "keys" / "signing.pem"
    ).sign(bundle, bundle / "model.sig")
    oracle(bundle, public_key)
    with pytest.raises(IntegrityError, match=r"'backdoor\.so' was not signed"):
        verify(bundle, public_key)


def resign(bundle: Path, private_key: Path, resources: list[dict[str, str]]) -> None:
    """Sign a statement of one's own making with the real key."""
    import hashlib

    root = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()
    payload = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "bundle", "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256"},
                "resources": resources,
            },
        }
    ).encode()
    key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    from cryptography.hazmat.primitives.hashes import SHA256

    kind = "application/vnd.in-toto+json"
    pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    body = json.loads((bundle / "model.sig").read_text())
    body["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    raw = base64.b64encode(key.sign(pae, ec.ECDSA(SHA256()))).decode()
    body["dsseEnvelope"]["signatures"][0]["sig"] = raw
    (bundle / "model.sig").write_text(json.dumps(body))


def test_a_missing_key_and_a_wrong_kind_of_key_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no public key"):
        verify(bundle, tmp_path / "absent.pub")
    (tmp_path / "text.pub").write_text("no key")
    with pytest.raises(IntegrityError, match="holds no PEM public key"):
        verify(bundle, tmp_path / "text.pub")
    pem = (
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "p384.pub").write_bytes(pem)
    with pytest.raises(IntegrityError, match=r"holds no EC P-256 key"):
        verify(bundle, tmp_path / "p384.pub")


def test_the_key_is_private_kept_and_paired(
    bundle: Path, signer: Signer, public_key: Path, tmp_path: Path
) -> None:
    private = tmp_path / "keys" / "signing.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    signer.sign(bundle)
    assert private.read_bytes() == before
    assert sorted(p.name for p in private.parent.iterdir()) == ["signing.pem", "signing.pub"]
    Signer(tmp_path / "other.pem", tmp_path / "other.pub").ensure_key()
    other = Signer(tmp_path / "other.pem", public_key)
    with pytest.raises(IntegrityError, match="is not the public key of"):
        other.sign(bundle)


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntegrityError, match="holds no file"):
        digest(tmp_path / "empty")


def test_what_cannot_be_read_may_be_readable_later(
    bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for look in (digest, read_manifest, read_golden, lambda folder: verify(folder, public_key)):
        with pytest.raises(Unavailable, match=r"cannot be read: .*absent: No such file"):
            look(bundle.parent / "absent")
    monkeypatch.setattr(hashlib, "file_digest", broken)
    with pytest.raises(Unavailable, match=r"cannot be read: .*bundle/[^/]+: Input/output error"):
        verify(bundle, public_key)
    monkeypatch.setattr(Path, "iterdir", broken)
    with pytest.raises(Unavailable, match=r"cannot be read: .*bundle/model\.sig: Input/output"):
        verify(bundle, public_key)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("manifest.json", read_manifest),
        ("golden.json", read_golden),
        ("profile.json", read_profile),
    ],
)
def test_a_file_that_gives_no_bytes_is_not_called_malformed(
    tmp_path: Path, name: str, look: Callable[[Path], object]
) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")  # the kernel answers a read of it with EIO
    with pytest.raises(Unavailable, match=rf"{name}: Input/output error"):
        look(tmp_path)


def test_a_bundle_without_a_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json cannot be read \(there is none\)"):
        read_manifest(tmp_path)


def test_a_device_in_the_folder_is_refused_not_read(bundle: Path, public_key: Path) -> None:
    os.mkfifo(bundle / "pipe")
    with pytest.raises(IntegrityError, match="'pipe' is a link or no regular file"):
        verify(bundle, public_key)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n\r"), min_size=1, max_size=8)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.binary(max_size=8), min_size=1, max_size=5))
def test_the_identity_depends_on_names_and_contents_alone(files: dict[str, bytes]) -> None:
    import hashlib

    hashed = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert identity(hashed) == identity(dict(reversed(list(hashed.items()))))
    for name in hashed:
        renamed = {f"{n}x" if n == name else n: h for n, h in hashed.items()}
        edited = hashed | {name: hashlib.sha256(hashed[name].encode()).hexdigest()}
        assert len({identity(hashed), identity(renamed), identity(edited)}) == 3


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    """It could make two different bundles share one digest."""
    (tmp_path / "a\nb").write_text("")
    with pytest.raises(IntegrityError, match="line break"):
        hashes(tmp_path)


def test_verification_loads_no_signing_library(bundle: Path, public_key: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tidemill.bundle import verify;"
        "print(verify(Path(sys.argv[1]), Path(sys.argv[2])));"
        "heavy = {'model_signing', 'sigstore', 'sigstore_models', 'mlflow', 'pydantic'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(public_key)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(bundle)


def test_a_profile_that_is_absent_or_malformed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"holds no reference profile profile\.json"):
        read_profile(tmp_path)
    (tmp_path / "profile.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"profile\.json is malformed"):
        read_profile(tmp_path)
