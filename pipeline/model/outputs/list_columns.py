"""Forms the columns that hold as many numbers of each row: lists of a fixed size, or plain lists.

In Parquet both are the same. They differ in the Arrow schema of the file, which pyarrow, Polars and pandas
follow: engines that read tables by a schema of their own know plain lists alone.
"""

import numpy as np
import pyarrow as pa

from pipeline.model.output_spec import OutputSpec


def list_type(value: pa.DataType, size: int, spec: OutputSpec) -> pa.DataType:
    """Returns the type of a column of lists."""
    return pa.list_(value, size) if spec.fixed_lists else pa.list_(value)


def list_array(values: pa.Array, size: int, spec: OutputSpec) -> pa.Array:
    """Returns a column of lists of this size, from the values of all rows one after the other."""
    if spec.fixed_lists:
        return pa.FixedSizeListArray.from_arrays(values, size)
    offsets = np.arange(0, len(values) + 1, size, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
