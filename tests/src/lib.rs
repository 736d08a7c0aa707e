//! System tests live in `system/`; see there.
