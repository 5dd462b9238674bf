-- What the worker needs to attack the crypto service through its own doors (fronts/): services of the platform's own
-- tenants, which it connects as anybody connects one, and the ids of a tenant's objects, which an attacker asks for.

-- A request for a certificate is for people and agents to store. The worker stores those of the platform's own tenants
-- and can never ask for a certificate in the name of a customer's service.
grant insert (tenant_id, request_id, service, kind, csr_pem) on okcm.service_request to okcm_worker;
create policy platforms_own on okcm.service_request as restrictive for insert to okcm_worker
    with check (starts_with(tenant_id, 'openkcm-'));

-- Names of objects, and still nothing in them: the worker could open what they hold, were it to read it.
grant select (object_id) on okcm.managed_object to okcm_worker;
