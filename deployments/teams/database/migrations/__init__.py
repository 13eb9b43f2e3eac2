"""The steps from an empty database to the present schema, each as it was the day it was written."""
