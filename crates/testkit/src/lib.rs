//! What the tests, benches and fuzz targets of `alluvium` share.
