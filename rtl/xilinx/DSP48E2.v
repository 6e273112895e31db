// Behaviour of UltraScale+'s DSP block as Yosys uses it, for simulating netlists; Yosys itself has only a
// black box: a signed multiplier of 27 by 18 bits, no registers, no adders.
// Reference: AMD UG579, UltraScale Architecture DSP Slice.
`default_nettype none

module DSP48E2 #(
    parameter integer ACASCREG = 1,         // registers: all of them only 0
    parameter integer ADREG = 1,
    parameter integer ALUMODEREG = 1,
    parameter integer AREG = 1,
    parameter integer BCASCREG = 1,
    parameter integer BREG = 1,
    parameter integer CARRYINREG = 1,
    parameter integer CARRYINSELREG = 1,
    parameter integer CREG = 1,
    parameter integer DREG = 1,
    parameter integer INMODEREG = 1,
    parameter integer MREG = 1,
    parameter integer OPMODEREG = 1,
    parameter integer PREG = 1,
    parameter A_INPUT = "DIRECT",           // what is multiplied, and how: only these
    parameter B_INPUT = "DIRECT",
    parameter AMULTSEL = "A",
    parameter BMULTSEL = "B",
    parameter USE_MULT = "MULTIPLY",
    parameter USE_SIMD = "ONE48"
) (
    input wire [29:0] A, ACIN,
    input wire [17:0] B, BCIN,
    input wire [47:0] C, PCIN,
    input wire [26:0] D,
    input wire [8:0] OPMODE,                // only X and Y of the product, Z of 0
    input wire [4:0] INMODE,                // only 0
    input wire [3:0] ALUMODE,               // only Z + X + Y + CIN
    input wire [2:0] CARRYINSEL,
    input wire CARRYIN,
    output wire [47:0] P
);
    initial
        if (ACASCREG + ADREG + ALUMODEREG + AREG + BCASCREG + BREG + CARRYINREG + CARRYINSELREG + CREG + DREG
            + INMODEREG + MREG + OPMODEREG + PREG != 0 || A_INPUT != "DIRECT" || B_INPUT != "DIRECT"
            || AMULTSEL != "A" || BMULTSEL != "B" || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48")
            $error("DSP48E2: this mode is not modelled");

    wire known = OPMODE == 9'b000000101 && INMODE == 0 && ALUMODE == 0 && CARRYINSEL == 0 && !CARRYIN;
    wire signed [47:0] a = {{21{A[26]}}, A[26:0]};
    wire signed [47:0] b = {{30{B[17]}}, B};
    assign P = known ? a * b : 48'd0;
endmodule

`default_nettype wire
