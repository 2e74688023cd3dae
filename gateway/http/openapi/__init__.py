"""The description of the API: the OpenAPI document and its pages."""
