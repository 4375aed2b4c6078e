"""The mean of the last days as a forecast of the next: small, and honest about it."""
import csv
import json
import sys

days = int(sys.argv[1])
rows = [float(r["temp_max"]) for r in csv.DictReader(open("weather.csv"))]
errors = [abs(sum(rows[i - days : i]) / days - rows[i]) for i in range(days, len(rows))]
json.dump({"days": days, "next": round(sum(rows[-days:]) / days, 2)}, open("model.json", "w"))
json.dump({"mae": round(sum(errors) / len(errors), 3)}, open("metrics.json", "w"))
