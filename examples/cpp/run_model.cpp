// Runs a model with the bnas operator library in a C++ program.
//
//     run_model MODEL.onnx LIBRARY INPUT.f32
//
// INPUT.f32 holds float32 numbers as they lie in memory, one or more inputs of the model behind each other. The numbers
// of the first output are printed, one a line, each input's answer after the other. LIBRARY is the operator library:
// `bnas-deploy ops-library -o FILE` writes it. CMakeLists.txt says how this is built.

// The wrapper would ask for its version of the API before main, and could only crash where onnxruntime is older.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace {

// A path for a message, as UTF-8: what onnxruntime says is, too. string() throws on Windows at a letter that the code
// page lacks.
std::string printable(const std::filesystem::path& path) {
    const auto text = path.u8string();
    return {text.begin(), text.end()};
}

std::vector<float> read_floats(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) {
        throw std::runtime_error(printable(path) + ": cannot be read");
    }
    std::vector<float> values(static_cast<std::size_t>(file.tellg()) / sizeof(float));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    return values;
}

// The shape of the first input. The batch is what is left open in it: it becomes as large as `count` numbers fill.
std::vector<int64_t> input_shape(const Ort::Session& session, std::size_t count) {
    std::vector<int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    const int64_t fixed = std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
    if (fixed < 1 || count == 0 || count % static_cast<std::size_t>(fixed) != 0) {
        throw std::runtime_error("the input file does not hold a whole number of inputs");
    }
    shape[0] = static_cast<int64_t>(count) / fixed;
    return shape;
}

// Paths are wide on Windows: a std::filesystem::path holds what the system has.
void run(const std::filesystem::path& model, const std::filesystem::path& library,
         const std::filesystem::path& input_file) {
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "run_model");
    Ort::SessionOptions options;
    // The one line that bnas needs. A name without a slash would be looked for in the system's folders only.
    options.RegisterCustomOpsLibrary(std::filesystem::absolute(library).c_str());
    Ort::Session session(environment, model.c_str(), options);

    std::vector<float> values = read_floats(input_file);
    const std::vector<int64_t> shape = input_shape(session, values.size());
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value input =
        Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

    Ort::AllocatorWithDefaultOptions allocator;
    const Ort::AllocatedStringPtr input_name = session.GetInputNameAllocated(0, allocator);
    const Ort::AllocatedStringPtr output_name = session.GetOutputNameAllocated(0, allocator);
    const char* const inputs[] = {input_name.get()};
    const char* const outputs[] = {output_name.get()};
    const std::vector<Ort::Value> answers = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 1);

    const float* numbers = answers[0].GetTensorData<float>();
    const std::size_t count = answers[0].GetTensorTypeAndShapeInfo().GetElementCount();
    for (std::size_t i = 0; i < count; ++i) {
        std::printf("%.9g\n", static_cast<double>(numbers[i]));
    }
}

} // namespace

#if defined(_WIN32)
int wmain(int argc, wchar_t** argv) { // MinGW takes it with -municode
#else
int main(int argc, char** argv) {
#endif
#if defined(_WIN32)
    SetConsoleOutputCP(CP_UTF8);
#endif
    if (argc != 4) {
        std::cerr << "usage: run_model MODEL.onnx LIBRARY INPUT.f32\n";
        return EXIT_FAILURE;
    }
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api) {
        std::cerr << "onnxruntime " << OrtGetApiBase()->GetVersionString()
                  << " is older than the header that this program was compiled with\n";
        return EXIT_FAILURE;
    }
    Ort::InitApi(api);
    try {
        run(argv[1], argv[2], argv[3]);
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
