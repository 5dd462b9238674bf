"""The CMK dashboard: customers manage the keys of their tenant, operators monitor all tenants.

One folder for each feature: `page` or `section` draws with Streamlit; `view` selects what is shown, without Streamlit
and without I/O; `actions` requests changes. `auth.routes` maps a path to a route. `auth.authorization` authorizes the
user, again at every rerun. A page receives a `PageContext` and nothing else. A request is stored in PostgreSQL and
executed by a workflow. Data in PostgreSQL is shown whether or not Temporal and Vault are up.

This process has no Vault identity: it unwraps no key and issues no certificate. No tenant id comes from a widget, a
query or an unverified cookie.
"""
