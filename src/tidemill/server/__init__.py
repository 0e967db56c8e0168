"""The inference server: Open Inference Protocol V2 on ONNX Runtime, one process.

Lives here: the protocol's types (`protocol`, `tensors`, `binary`), what a request must satisfy
(`validation`), the model (`model`), features looked up online (`lookup`), the prediction log
(`predictions`, `encoding`), counters (`metrics`), the path of one request (`inference`), the models
in this process (`repository`), REST (`rest`, `routes`, `documents`), HTTP (`app`), gRPC (`rpc`, a
package of its own), the parts put together (`build`), who and how much may come in (`guard`,
`auth`, `keys`, `bucket`, `body`, `connection`, `tls`, `files`), the socket (`listener`), start and
drain (`process`).
May not live here: an adapter, a training SDK. This process never imports torch, mlflow, feast, kfp,
evidently or pandas; the store of features, the object store and the clock arrive as ports.
"""

from tidemill.server.app import App
from tidemill.server.auth import Keyring, refuse_exposure
from tidemill.server.build import build_app, build_served, verify_features
from tidemill.server.listener import listen
from tidemill.server.model import Model, load_model
from tidemill.server.process import forbid_imports, log_as_json, serve
from tidemill.server.repository import Repository, Served
from tidemill.server.tls import Certificates

__all__ = [
    "App",
    "Certificates",
    "Keyring",
    "Model",
    "Repository",
    "Served",
    "build_app",
    "build_served",
    "forbid_imports",
    "listen",
    "load_model",
    "log_as_json",
    "refuse_exposure",
    "serve",
    "verify_features",
]
