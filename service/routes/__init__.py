"""The endpoints, and what they take and answer as OpenAPI describes it."""
