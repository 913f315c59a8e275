"""Alembic's entry for objects.db; the connection and its transaction come from `clary.store.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
