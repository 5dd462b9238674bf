"""Operations page: all tenants, stalled workflows, retries."""
