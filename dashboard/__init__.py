"""The CMK dashboard: where the customer's people look after their tenant's keys, and operators after all tenants.

`places` says where a browser is (a tenant, the operators' desk, the development marketplace), `guard` who may be there,
again at every rerun; a page gets a `Seat` and nothing else. `views` decide what is shown, without Streamlit and without
I/O; `pages` draw it. What somebody asks for is stored in PostgreSQL and done by a workflow; what PostgreSQL knows is
shown whether or not Temporal and Vault are up.

No Vault identity here: this process opens no key and issues no certificate. And no tenant id comes from a widget, a
query or a cookie that was not checked.
"""
