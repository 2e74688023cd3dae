from run_gateway import follow

for event in follow("http://127.0.0.1:8080/runs/report-7"):
    print(event)
