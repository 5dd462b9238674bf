"""The CMK dashboard: where the customer's people look after their tenant's keys, and operators after all tenants.

One folder for each feature: `page` or `section` draws with Streamlit, `view` decides what is shown, without Streamlit
and without I/O, `actions` asks for changes. `auth.routes` says where a browser is, `auth.authorization` who may be
there, again at every rerun; a page gets a `PageContext` and nothing else. What somebody asks for is stored in
PostgreSQL and done by a workflow; what PostgreSQL knows is shown whether or not Temporal and Vault are up.

No Vault identity here: this process opens no key and issues no certificate. And no tenant id comes from a widget, a
query or a cookie that was not checked.
"""
