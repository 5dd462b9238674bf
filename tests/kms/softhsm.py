"""SoftHSM2: a customer's token in separate files, which other processes change as with a customer's HSM.

    hsm = SoftHsm.create(folder)            # writes softhsm2.conf and points SOFTHSM2_CONF of this process at it
    hsm.make_token("acme"); hsm.make_key("acme", "root")
    policy = EgressPolicy(pkcs11_module=hsm.module, pkcs11_tokens={"acme": TENANT})
    root_key = RootKeyProviders(policy).open(TENANT, hsm.place("acme"), hsm.pin())
    hsm.switch("acme", on=False); hsm.destroy_key("acme"); hsm.take_away("acme"); hsm.bring_back("acme")

A module reads SOFTHSM2_CONF once, when it is loaded: one SoftHsm for a process, or a process for each.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from core.keys.root_keys import Credentials, Pkcs11KeyRef

PIN = "1234-user"
SO_PIN = "5678-officer"
KEY = "openkcm-root"
_PLACES = (
    Path(".venv/softhsm/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
)
_FLAGS = bytes.fromhex("000000008000534b0000000000000002")
"""The attribute CKA_OS_TOKENFLAGS with its type in a token's file; eight bytes follow."""
_OTHER_PROCESS = """
import sys
import pkcs11
from pkcs11 import *
token, pin, key, code = sys.argv[2:]
session = pkcs11.lib(sys.argv[1]).get_token(token_label=token).open(rw=True, user_pin=pin)
def keys():
    return list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: key}))
exec(code)
session.close()
"""


def module() -> Path:
    """Return the module's path, in .venv before the system's."""
    root = Path(__file__).parents[2]
    for place in _PLACES:
        if (root / place).exists():
            return root / place
    raise RuntimeError("SoftHSM2 is missing: scripts/setup.sh test")


@dataclass
class SoftHsm:
    folder: Path
    module: Path

    @classmethod
    def create(cls, folder: Path) -> "SoftHsm":
        hsm = cls(folder, module())
        hsm._tokens.mkdir()
        hsm._away.mkdir()
        configuration = f"directories.tokendir = {hsm._tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        hsm.configuration.write_text(configuration, encoding="utf-8")
        os.environ["SOFTHSM2_CONF"] = str(hsm.configuration)
        return hsm

    @property
    def configuration(self) -> Path:
        """Return the path that SOFTHSM2_CONF must contain in each process that uses these tokens."""
        return self.folder / "softhsm2.conf"

    @property
    def _tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def _away(self) -> Path:
        return self.folder / "away"

    def place(self, token: str, key: str = KEY) -> Pkcs11KeyRef:
        return Pkcs11KeyRef(token=token, key=key)

    def pin(self, pin: str = PIN) -> Credentials:
        return Credentials(pin=SecretStr(pin))

    def make_token(self, label: str, pin: str = PIN) -> None:
        beside = self.module.parents[2] / "bin" / "softhsm2-util"
        tool = str(beside if beside.exists() else shutil.which("softhsm2-util") or "softhsm2-util")
        command = [tool, "--module", str(self.module), "--init-token", "--free"]
        self._run([*command, f"--label={label}", f"--so-pin={SO_PIN}", f"--pin={pin}"])

    def make_key(self, token: str, key: str = KEY, bits: int = 256, **attributes: object) -> None:
        """Create an AES key; attributes have the names of `pkcs11.Attribute`, such as EXTRACTABLE=True."""
        given = {"SENSITIVE": True, "EXTRACTABLE": False, "MODIFIABLE": True, "ENCRYPT": True, "DECRYPT": True}
        template = ", ".join(f"Attribute.{name}: {value!r}" for name, value in {**given, **attributes}.items())
        self.run(
            token, f"session.generate_key(KeyType.AES, {bits}, label=key, store=True, template={{{template}}})", key
        )

    def switch(self, token: str, key: str = KEY, *, on: bool, uses: tuple[str, ...] = ("ENCRYPT", "DECRYPT")) -> None:
        """Enable or disable uses of the key."""
        lines = [f"keys()[0][Attribute.{use}] = {on}" for use in uses]
        self.run(token, "\n".join(lines), key)

    def destroy_key(self, token: str, key: str = KEY) -> None:
        self.run(token, "[one.destroy() for one in keys()]", key)

    def change_pin(self, token: str, old: str, new: str) -> None:
        self.run(token, f"session.set_pin({old!r}, {new!r})", pin=old)

    def flags(self, token: str) -> int:
        """Return CK_TOKEN_INFO.flags of a token."""
        content = self._token_file(token).read_bytes()
        return int.from_bytes(content[(at := content.index(_FLAGS) + len(_FLAGS)) : at + 8])

    def set_flags(self, token: str, flags: int) -> None:
        """Replace the flags, as wrong PINs in another token would; loaded modules detect it when initialised again."""
        content = self._token_file(token).read_bytes()
        at = content.index(_FLAGS) + len(_FLAGS)
        self._token_file(token).write_bytes(content[:at] + flags.to_bytes(8) + content[at + 8 :])

    def take_away(self, token: str) -> None:
        """Remove the token."""
        shutil.move(self._folder_of(token, self._tokens), self._away)

    def bring_back(self, token: str) -> None:
        shutil.move(self._folder_of(token, self._away), self._tokens)

    def run(self, token: str, code: str, key: str = KEY, pin: str = PIN) -> None:
        """Run code on the token in a separate process; it has `session`, `key` and `keys()`."""
        self._run([sys.executable, "-c", _OTHER_PROCESS, str(self.module), token, pin, key, code])

    def _token_file(self, token: str) -> Path:
        return Path(self._folder_of(token, self._tokens)) / "token.object"

    def _folder_of(self, token: str, within: Path) -> str:
        padded = token.encode().ljust(32)
        return next(str(one) for one in within.iterdir() if padded in (one / "token.object").read_bytes())

    def _run(self, command: list[str]) -> None:
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
