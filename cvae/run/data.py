"""Former names of `cvae.loading.loaded`."""

from cvae.loading.loaded import check_data, load_data, split_options

__all__ = ["check_data", "load_data", "split_options"]
