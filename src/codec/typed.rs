//! Codecs for keys, namespaces and values, with names that tools can decode by.
