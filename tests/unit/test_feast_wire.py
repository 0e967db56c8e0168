"""Our encoding of keys and values, held to Feast's own."""

from __future__ import annotations

from datetime import datetime

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as Proto
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.feast_wire import decode, decode_instant, entity_key
from tidemill.errors import DataError

int64 = st.integers(-(2**63), 2**63 - 1)
names = st.text("abcxyz_", min_size=1, max_size=8)


@given(st.dictionaries(names, st.text(max_size=20) | int64, min_size=1, max_size=4))
def test_entity_keys_are_feasts(keys: dict[str, str | int]) -> None:
    values = [
        Proto(string_val=v) if isinstance(v, str) else Proto(int64_val=v) for v in keys.values()
    ]
    proto = EntityKey(join_keys=list(keys), entity_values=values)
    assert entity_key(keys) == serialize_entity_key(proto, entity_key_serialization_version=3)


@given(
    st.one_of(
        st.text(max_size=300).map(lambda v: (v, Proto(string_val=v))),
        int64.map(lambda v: (v, Proto(int64_val=v))),
        st.integers(-(2**31), 2**31 - 1).map(lambda v: (v, Proto(int32_val=v))),
        st.floats(allow_nan=False).map(lambda v: (v, Proto(double_val=v))),
        st.floats(allow_nan=False, width=32).map(lambda v: (v, Proto(float_val=v))),
        st.booleans().map(lambda v: (v, Proto(bool_val=v))),
    )
)
def test_values_are_feasts(pair: tuple[object, Proto]) -> None:
    value, proto = pair
    found = decode(proto.SerializeToString())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("proto", [Proto(), Proto(null_val=0)])
def test_nulls_are_none(proto: Proto) -> None:
    assert decode(proto.SerializeToString()) is None


def test_a_value_of_another_kind_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown type"):
        decode(Proto(bytes_val=b"x").SerializeToString())


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_instants_are_protobufs(instant: datetime) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    assert decode_instant(stamp.SerializeToString()) == stamp.seconds + stamp.nanos / 1e9
