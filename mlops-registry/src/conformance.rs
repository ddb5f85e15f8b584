//! Conformance suites: one function per sentence of a contract.
