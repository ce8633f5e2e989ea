// Workflows as a user meets them: real memory server, functions on nodes, Client::Run, `apta run`.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/host.h"

namespace apta {
namespace {

using nlohmann::json;
using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Execute;
using test::Folder;
using test::NodesWith;
using test::Result;
using test::RunningHost;
using test::ToBytes;
using test::ToText;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Workflow Read(const std::string& definition) {
  auto workflow = Workflow::FromJson(definition);
  if (!workflow.ok()) {
    ADD_FAILURE() << workflow.status();
    std::abort();
  }
  return *std::move(workflow);
}
std::string Machine(const std::string& states) {
  return fmt::format(R"({{"StartAt":"A","States":{{{}}}}})", states);
}
std::string OneTask(const std::string& function, const std::string& fields = "") {
  return Machine(
      fmt::format(R"("A":{{"Type":"Task","Resource":"{}","End":true{}}})", function, fields));
}

class WorkflowTest : public ::testing::Test {
 protected:
  ~WorkflowTest() override { released_.store(true); }

  void SetUp() override {
    host_.Register(
        "add",
        [](Invocation& invocation) -> absl::StatusOr<Bytes> {
          return ToBytes(std::to_string(json::parse(AsText(invocation.input())).get<int>() + 1));
        },
        {.max_concurrency = 4});
    host_.Register("flaky",  // fails, throws, then does it
                   [this](Invocation& invocation) -> absl::StatusOr<Bytes> {
                     const int call = calls_.fetch_add(1);
                     if (call == 0) return absl::UnavailableError("not yet");
                     if (call == 1) throw std::runtime_error("thrown");
                     return Bytes(invocation.input().begin(), invocation.input().end());
                   });
    host_.Register("fail", [](Invocation&) -> absl::StatusOr<Bytes> {
      return absl::NotFoundError("nothing here");
    });
    host_.Register("text", [](Invocation&) -> absl::StatusOr<Bytes> { return ToBytes("plain"); });
    host_.Register("store", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
      invocation.Put("stored", invocation.input());
      return Bytes();
    });
    host_.Register("wait",
                   [this](Invocation&) -> absl::StatusOr<Bytes> {
                     waiting_.fetch_add(1);
                     Eventually([this] { return released_.load(); });
                     return ToBytes("\"released\"");
                   },
                   {.max_concurrency = 2});
    host_.Run();
    ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "wait") == 1; }));
  }

  std::string File(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  std::vector<std::string> Command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {APTA_PATH, "--socket", folder_ / "s"});
    return arguments;
  }
  Result Apta(std::vector<std::string> arguments, const std::string& input = "") const {
    return Execute(Command(std::move(arguments)), input);
  }

  std::atomic<int> calls_{0};
  std::atomic<int> waiting_{0};
  std::atomic<bool> released_{false};
  Folder folder_;
  Aptad aptad_{{"--socket", folder_ / "s", "--pool", "bytes=64MiB"}};
  Client client_ = ConnectTo(folder_ / "s", "caller");
  RunningHost host_{ConnectTo(folder_ / "s", "host"), 6};
};

TEST_F(WorkflowTest, FunctionsRunInTheOrderItSays) {
  const Workflow workflow = Read(Machine(R"(
      "A":{"Type":"Task","Resource":"add","Next":"B"},
      "B":{"Type":"Parallel","Next":"C","Branches":[
        {"StartAt":"L","States":{"L":{"Type":"Task","Resource":"add","End":true}}},
        {"StartAt":"R","States":{"R":{"Type":"Pass","End":true}}}]},
      "C":{"Type":"Map","Next":"D","Iterator":{"StartAt":"I","States":{
        "I":{"Type":"Task","Resource":"add","End":true}}}},
      "D":{"Type":"Task","Resource":"store","ResultPath":null,"End":true})"));
  EXPECT_EQ(ToText(client_.Run(workflow, AsBytes("1"))), "[4,3]");
  const auto stored = client_.Get("stored");
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(AsText(stored->bytes()), "[4,3]");
}

TEST_F(WorkflowTest, AFailingAndAThrowingFunctionAreRetried) {
  const Workflow workflow = Read(OneTask("flaky", R"(,"Retry":[{"ErrorEquals":
      ["UNAVAILABLE","INTERNAL"],"IntervalSeconds":1,"BackoffRate":1}])"));
  std::vector<std::string> errors;
  RunOptions options;
  options.observer = [&](const StateEvent& event) {
    if (event.kind == StateEvent::Kind::kRetrying) errors.push_back(event.error);
  };
  const absl::Time begin = absl::Now();
  EXPECT_EQ(ToText(client_.Run(workflow, AsBytes("{\"x\":1}"), options)), "{\"x\":1}");
  EXPECT_GE(absl::Now() - begin, absl::Seconds(2));
  EXPECT_EQ(errors, (std::vector<std::string>{"UNAVAILABLE", "INTERNAL"}));
}

TEST_F(WorkflowTest, AnErrorIsCaughtOrComesBackByItsCode) {
  const absl::Status status = client_.Run(Read(OneTask("fail")), {}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("state \"A\": NOT_FOUND: nothing here"));
  EXPECT_TRUE(absl::IsNotFound(client_.Run(Read(OneTask("no such")), {}).status()));
  EXPECT_TRUE(absl::IsInternal(client_.Run(Read(OneTask("text")), {}).status()));
  const Workflow caught = Read(Machine(R"("A":{"Type":"Task","Resource":"fail","End":true,"Catch":[
      {"ErrorEquals":["NOT_FOUND"],"ResultPath":"$.e","Next":"B"}]},
      "B":{"Type":"Pass","OutputPath":"$.e.Cause","End":true})"));
  EXPECT_EQ(ToText(client_.Run(caught, {})), "\"nothing here\"");
  const Workflow fail = Read(Machine(R"("A":{"Type":"Fail","Error":"Mine","Cause":"so"})"));
  EXPECT_TRUE(absl::IsAborted(client_.Run(fail, {}).status()));
}

TEST_F(WorkflowTest, ATaskThatTakesTooLongTimesOutAndTheRunReturns) {
  const absl::Time begin = absl::Now();
  const absl::Status status =
      client_.Run(Read(OneTask("wait", R"(,"TimeoutSeconds":1)")), {}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  // A branch that fails does not wait for the other's function.
  const Workflow fails = Read(Machine(R"("A":{"Type":"Parallel","End":true,"Branches":[
      {"StartAt":"L","States":{"L":{"Type":"Task","Resource":"wait","End":true}}},
      {"StartAt":"R","States":{"R":{"Type":"Task","Resource":"fail","End":true}}}]})"));
  EXPECT_TRUE(absl::IsNotFound(client_.Run(fails, {}).status()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

TEST_F(WorkflowTest, WhatCannotBeRightIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Workflow::FromJson("{}").status()));
  const Workflow workflow = Read(OneTask("add"));
  EXPECT_TRUE(absl::IsInvalidArgument(client_.Run(workflow, AsBytes("{")).status()));
  RunOptions options;
  options.name = std::string(201, 'n');
  EXPECT_TRUE(absl::IsInvalidArgument(client_.Run(workflow, {}, options).status()));
  options = RunOptions();
  options.max_transitions = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(client_.Run(workflow, {}, options).status()));
}

TEST_F(WorkflowTest, ARunIsFoundByItsName) {
  RunOptions options;
  options.name = "nightly";
  const Workflow workflow = Read(Machine(R"("A":{"Type":"Task","Resource":"add","Next":"B"},
      "B":{"Type":"Pass","End":true})"));
  ASSERT_TRUE(client_.Run(workflow, AsBytes("1"), options).ok());
  const absl::Status again = client_.Run(workflow, AsBytes("1"), options).status();
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  Client other = ConnectTo(folder_ / "s", "other");
  const auto run = other.FindRun("nightly");
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->status, RunStatus::kSucceeded);
  EXPECT_EQ(AsText(run->output), "2");
  EXPECT_EQ(run->node, "caller");
  EXPECT_EQ(run->transitions, 2);
  ASSERT_EQ(run->states.size(), 2u);
  EXPECT_EQ(run->states[0].name, "A");
  EXPECT_EQ(run->states[0].left, 1);
  EXPECT_LE(run->started, run->states[0].first_entered);
  EXPECT_LE(run->states[0].first_entered, run->updated);
  options.name = "broken";
  EXPECT_FALSE(client_.Run(Read(OneTask("fail")), {}, options).ok());
  const auto broken = other.FindRun("broken");
  ASSERT_TRUE(broken.ok()) << broken.status();
  EXPECT_EQ(broken->status, RunStatus::kFailed);
  EXPECT_EQ(broken->error, "NOT_FOUND");
  EXPECT_EQ(broken->failed_state, "A");
  EXPECT_EQ(broken->states.at(0).failed, 1);
  EXPECT_THAT(broken->states.at(0).last_error, HasSubstr("nothing here"));
  EXPECT_TRUE(absl::IsNotFound(other.FindRun("none").status()));
  ASSERT_TRUE(client_.Put("apta.run/garbage", AsBytes("garbage")).ok());
  EXPECT_TRUE(absl::IsDataLoss(other.FindRun("garbage").status()));
  const auto runs = other.Runs();
  ASSERT_TRUE(runs.ok()) << runs.status();
  EXPECT_EQ(runs->size(), 2u);
  ASSERT_TRUE(client_.Delete("apta.run/nightly").ok());
  options.name = "nightly";
  EXPECT_TRUE(client_.Run(workflow, AsBytes("1"), options).ok());
}

TEST_F(WorkflowTest, AMapOfTenThousandItems) {
  const int count = test::Scaled(10'000);
  json items = json::array();
  json expected = json::array();
  for (int i = 0; i < count; ++i) {
    items.push_back(i);
    expected.push_back(i + 1);
  }
  const Workflow workflow = Read(Machine(R"("A":{"Type":"Map","End":true,"Iterator":{
      "StartAt":"I","States":{"I":{"Type":"Task","Resource":"add","End":true}}}})"));
  const auto output = client_.Run(workflow, AsBytes(items.dump()));
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(json::parse(AsText(*output)), expected);
  EXPECT_EQ(ToText(client_.Call("add", AsBytes("1"))), "2");
}

TEST_F(WorkflowTest, AChainOfAThousandTasks) {
  const int count = test::Scaled(1000);
  std::string chain;
  for (int i = 0; i < count; ++i) {
    chain += fmt::format(R"({}"{}":{{"Type":"Task","Resource":"add",{}}})", i == 0 ? "" : ",",
                         i == 0 ? "A" : fmt::format("S{}", i),
                         i == count - 1 ? R"("End":true)" : fmt::format(R"("Next":"S{}")", i + 1));
  }
  EXPECT_EQ(ToText(client_.Run(Read(Machine(chain)), AsBytes("0"))), std::to_string(count));
}

TEST_F(WorkflowTest, RunsOfManyThreadsDoNotTakeEachOthersLanes) {
  const Workflow workflow = Read(Machine(R"("A":{"Type":"Map","End":true,"Iterator":{
      "StartAt":"I","States":{"I":{"Type":"Task","Resource":"add","End":true}}}})"));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      json items = json::array();
      for (int i = 0; i < 50; ++i) items.push_back(1);
      const auto output = client_.Run(workflow, AsBytes(items.dump()));
      wrong += !output.ok() || json::parse(AsText(*output)) != json(50, 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

// ---- apta run -------------------------------------------------------------------------------

TEST_F(WorkflowTest, TheCommandRunsAFileAndShowsItsStates) {
  const std::string file = File("w.json", Machine(R"("A":{"Type":"Task","Resource":"add",
      "Next":"B"},"B":{"Type":"Pass","End":true})"));
  const Result result = Apta({"run", file, "1", "--name", "cli"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "2\n");
  EXPECT_THAT(result.err, AllOf(StartsWith("run cli\n"), HasSubstr("  A: entered\n"),
                                HasSubstr("  A: left\n"), HasSubstr("  B: left\n")));
  EXPECT_EQ(Apta({"run", file, "-"}, "5").out, "6\n");
  EXPECT_EQ(Apta({"run", file, "@" + File("input", "7")}).out, "8\n");
  EXPECT_EQ(Apta({"run", "-", "7"}, Machine(R"("A":{"Type":"Pass","End":true})")).out, "7\n");
  const Result lines = Apta({"run", file, "1", "--json"});
  EXPECT_EQ(json::parse(lines.err.substr(0, lines.err.find('\n')))["event"], "entered");

  const Result shown = Apta({"run", "--show", "cli"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out, AllOf(StartsWith("run cli\n"), HasSubstr("SUCCEEDED"), EndsWith("2\n")));
  const json as_json = json::parse(Apta({"run", "--show", "cli", "--json"}).out);
  EXPECT_EQ(as_json["status"], "SUCCEEDED");
  EXPECT_EQ(as_json["output"], 2);
  EXPECT_THAT(Apta({"runs"}).out, AllOf(StartsWith("NAME"), HasSubstr("cli   ")));
  EXPECT_EQ(json::parse(Apta({"runs", "--json"}).out).size(), 5u);
}

TEST_F(WorkflowTest, TheCommandSaysInOneLineWhatIsWrong) {
  const std::string file = File("w.json", Machine(R"("A":{"Type":"Fail","Error":"Mine"})"));
  const std::string bad = File("bad.json", Machine(R"("A":{"Type":"Pass","Next":"B"})"));
  ASSERT_EQ(Apta({"run", File("ok.json", OneTask("add")), "1", "--name", "taken"}).exit_code, 0);
  const std::tuple<std::vector<std::string>, int, std::string> cases[] = {
      {{"run", bad}, 1, "bad.json: state \"A\", field \"Next\": there is no state \"B\""},
      {{"run", folder_ / "none.json"}, 1, "none.json"},
      {{"run", folder_ / "ok.json", "{"}, 1, "the workflow's input is not JSON"},
      {{"run", folder_ / "ok.json", "1", "--name", "taken"}, 1, "ALREADY_EXISTS"},
      {{"run", "--show", "nothing"}, 1, "NOT_FOUND"},
      {{"run"}, 2, "WORKFLOW"},
      {{"run", file, "--show", "x"}, 2, "--show"},
      {{"run", "-", "-"}, 1, "standard input"},
  };
  for (const auto& [arguments, exit_code, says] : cases) {
    const Result result = Apta(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, AllOf(StartsWith("apta: "), HasSubstr(says)));
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
  const Result failed = Apta({"run", file});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, HasSubstr("\napta: ABORTED: run "));
}

TEST_F(WorkflowTest, AnErrorStreamThatCannotBeWrittenEndsNoRun) {
  const std::string file = File("w.json", OneTask("add"));
  const test::Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  const test::Fd out = test::Memory();
  test::Child run(Command({"run", file, "1"}), STDIN_FILENO, out.get(), full.get());
  EXPECT_EQ(run.Wait(), 0);
  EXPECT_EQ(test::Contents(out), "2\n");
  test::Child failing(Command({"run", file, "{"}), STDIN_FILENO, out.get(), full.get());
  EXPECT_EQ(failing.Wait(), 1);
  test::Child misused(Command({"run"}), STDIN_FILENO, out.get(), full.get());
  EXPECT_EQ(misused.Wait(), 2);
}

TEST_F(WorkflowTest, AnOutputThatThePoolCannotKeepComesBackAllTheSame) {
  const std::string large = '"' + std::string(std::size_t{65} << 20, 'x') + '"';
  const auto output = client_.Run(Read(Machine(R"("A":{"Type":"Pass","End":true})")),
                                  AsBytes(large), {.name = "large"});
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE(AsText(*output) == large);
  const auto run = client_.FindRun("large");
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->status, RunStatus::kSucceeded);
  EXPECT_TRUE(run->output.empty());
  EXPECT_THAT(run->note, HasSubstr("could not be kept"));
  EXPECT_THAT(Apta({"run", "--show", "large"}).out, HasSubstr("could not be kept"));
}

TEST_F(WorkflowTest, ARecordThatSomebodyElseWroteDrivesNoTerminal) {
  const std::string escape = "\x1b[31m";
  const json record = {{"name", "another" + escape},
                       {"status", "FAILED"},
                       {"node", escape},
                       {"error", escape},
                       {"states", {{{"name", escape}, {"type", escape}, {"last_error", escape}}}}};
  ASSERT_TRUE(client_.Put("apta.run/forged", ToBytes(record.dump())).ok());
  const std::string list = Apta({"runs"}).out;
  EXPECT_THAT(list, AllOf(HasSubstr("forged"), HasSubstr("FAILED")));
  EXPECT_EQ(list.find("another"), list.npos) << list;
  const std::string shown = Apta({"run", "--show", "forged"}).out;
  EXPECT_THAT(shown, HasSubstr("\\x1b[31m"));
  for (const std::string& text : {list, shown}) EXPECT_EQ(text.find('\x1b'), text.npos) << text;
}

TEST_F(WorkflowTest, OnATerminalTheStatesArePaintedOverAndOver) {
  const std::string file = File("w.json", Machine(R"("A":{"Type":"Pass","Next":"B"},
      "B":{"Type":"Task","Resource":"wait","End":true})"));
  const test::Terminal terminal = test::Terminal::Make();
  const test::Fd out = test::Memory();
  test::Child child(Command({"run", file, "{}", "--name", "seen"}), test::Memory().get(), out.get(),
                    terminal.line.get());
  const std::string running = test::ReadUntil(
      terminal.screen, [](const std::string& seen) { return seen.find("0/1") != seen.npos; });
  EXPECT_THAT(running, AllOf(HasSubstr("run seen"), HasSubstr("STATE"), HasSubstr("B")));
  released_.store(true);
  const std::string ended = test::ReadUntil(terminal.screen, [](const std::string& seen) {
    const std::size_t up = seen.find("\x1b[4A");
    return up != seen.npos && seen.find("1/1", seen.find("  B", up)) != seen.npos;
  });
  EXPECT_EQ(child.Wait(), 0) << ended;
  EXPECT_EQ(test::Contents(out), "\"released\"\n");
}

TEST_F(WorkflowTest, OfACallerThatIsKilledTheRecordSaysWhatWasDone) {
  const std::string file = File("w.json", Machine(R"(
      "A":{"Type":"Task","Resource":"add","Next":"B"},
      "B":{"Type":"Task","Resource":"wait","End":true})"));
  const test::Fd quiet = test::Memory();
  test::Child child(Command({"run", file, "1", "--name", "killed"}), quiet.get(), quiet.get(),
                    quiet.get());
  ASSERT_TRUE(Eventually([&] {
    const auto run = client_.FindRun("killed");
    return run.ok() && run->states.size() == 2;
  }));
  EXPECT_EQ(client_.FindRun("killed")->status, RunStatus::kRunning);
  child.Signal(SIGKILL);
  child.Wait();
  ASSERT_TRUE(Eventually([&] { return client_.FindRun("killed")->status == RunStatus::kLost; }));
  const RunInfo run = *client_.FindRun("killed");
  EXPECT_EQ(run.states[0].name, "A");
  EXPECT_EQ(run.states[0].left, 1);
  EXPECT_EQ(run.states[1].name, "B");
  EXPECT_EQ(run.states[1].entered, 1);
  EXPECT_EQ(run.states[1].left, 0);
  EXPECT_THAT(Apta({"runs"}).out, HasSubstr("LOST"));
}

}  // namespace
}  // namespace apta
