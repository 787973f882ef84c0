//! The composition root: opens the engine, builds the services, serves, drains.
