"""How a list of passes is run: the order, the log, and the check after every step."""

from collections.abc import Iterable

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from bnas_deploy.export.rewrite import run


@pytest.fixture
def model() -> ir.Model:
    graph = "graph (float[N] x) => (float[N] y) { a = Relu (x) b = Relu (a) y = Neg (b) }"
    loaded = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {graph}'))
    for node in loaded.graph:
        node.name = str(node.outputs[0].name)
    return loaded


class DropRelu:
    """Drop every Relu but one that `kept` names."""

    def __init__(self, kept: str = "") -> None:
        self.kept = kept

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        return (node for node in model.graph if node.op_type == "Relu")

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        return f"{node.name} is wanted" if node.name == self.kept else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        model.graph.remove(node, safe=True)


class DropAllAtFirstSite(DropRelu):
    def apply(self, model: ir.Model, node: ir.Node) -> None:
        for relu in list(self.sites(model)):
            super().apply(model, relu)


class Reverse:
    """A pass with a bug: the nodes are in the wrong order after it."""

    def sweep(self, model: ir.Model) -> None:
        nodes = list(model.graph)
        for node in nodes:
            model.graph.remove(node)
        model.graph.extend(reversed(nodes))


class DropLast:
    """A pass with a bug: it removes the node that makes the output."""

    def sweep(self, model: ir.Model) -> None:
        model.graph.remove(model.graph[-1])


def _operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_every_site_is_rewritten_and_counted(model: ir.Model) -> None:
    log = run([DropRelu()], model)

    assert _operators(model) == ["Neg"]
    assert (log.applied, list(map(str, log.refusals))) == ({"DropRelu": 2}, [])


def test_a_refusal_is_a_sentence_in_the_log(model: ir.Model) -> None:
    log = run([DropRelu(kept="b")], model)

    assert _operators(model) == ["Relu", "Neg"]
    assert (log.applied, list(map(str, log.refusals))) == ({"DropRelu": 1}, ["DropRelu: b: b is wanted"])


def test_a_pass_that_runs_twice_is_counted_together(model: ir.Model) -> None:
    log = run([DropRelu(kept="b"), DropRelu()], model)

    assert log.applied == {"DropRelu": 2}


def test_a_node_that_an_earlier_site_removed_is_passed_over(model: ir.Model) -> None:
    log = run([DropAllAtFirstSite()], model)

    assert log.applied == {"DropAllAtFirstSite": 1}


def test_a_pass_without_a_site_is_in_the_log_and_a_sweep_is_not(model: ir.Model) -> None:
    class Nothing:
        def sweep(self, model: ir.Model) -> None:
            pass

    log = run([DropRelu(), Nothing(), DropAllAtFirstSite()], model)

    assert log.applied == {"DropRelu": 2, "DropAllAtFirstSite": 0}


def test_a_value_that_is_read_before_it_is_made_names_the_pass(model: ir.Model) -> None:
    with pytest.raises(AssertionError, match=r"Reverse: y reads .*b.* before it is made"):
        run([Reverse()], model)


def test_an_output_that_is_not_made_names_the_pass(model: ir.Model) -> None:
    with pytest.raises(AssertionError, match="DropLast: an output of the graph is not made"):
        run([DropLast()], model)
