"""The inference server: Open Inference Protocol V2 on ONNX Runtime, in one process.

Lives here: the protocol's types (`protocol`, `tensors`, `skimming`, `binary`), what a request must
satisfy (`validation`), the model (`model`, `warmup`, `batching`, `cache`), features looked up
online (`lookup`, `circuit`), the prediction log (`predictions`, `sampling`, `encoding`,
`redaction`, `unstored`), the path of one request (`inference`), the models in this process
(`repository`, `folder`), REST (`rest`, `records`, `routes`, `documents`) and its description
(`operations`, `openapi`), what is admitted and answered (`app`), gRPC (`rpc`, a package), what is
seen of it all (`metrics`, `trail`, `observer`, `traces`, `access`), mirrored requests and what is
compared (`shadow`, `answers`), the parts put together (`build`), who and how much may come in
(`guard`, `auth`, `bearer`, `keyring`, `keys`, `tokens`, `jwks`, `bucket`, `quota`, `tls`, `files`)
and how long it may take (`deadlines`), HTTP/1.1 (`messages`, `connection`, `traffic`), start and
drain (`process`), and the other workers of the same server, where there are any (`crew`, `orders`).
`tokens`, `jwks` and `rpc` are not imported here: who does not use them does not pay for their
libraries.
May not live here: an adapter, a training SDK. This process never imports torch, mlflow, feast, kfp,
evidently or pandas; the store of features, the object store and the clock arrive as ports.
"""

from tidemill.server.app import App
from tidemill.server.auth import Authentication, refuse_exposure
from tidemill.server.build import build_app, build_served, verify_features
from tidemill.server.files import read_file
from tidemill.server.keyring import Keyring
from tidemill.server.model import Model, load_model
from tidemill.server.process import Beside, forbid_imports, serve
from tidemill.server.repository import Repository, Served
from tidemill.server.shadow import ShadowListener, build_shadow_app
from tidemill.server.tls import Certificates
from tidemill.server.unstored import Unstored
from tidemill.server.warmup import warm_up

__all__ = [
    "App",
    "Authentication",
    "Beside",
    "Certificates",
    "Keyring",
    "Model",
    "Repository",
    "Served",
    "ShadowListener",
    "Unstored",
    "build_app",
    "build_served",
    "build_shadow_app",
    "forbid_imports",
    "load_model",
    "read_file",
    "refuse_exposure",
    "serve",
    "verify_features",
    "warm_up",
]
